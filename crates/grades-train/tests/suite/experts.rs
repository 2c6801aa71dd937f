//! Runs of models with experts.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::runs::Workspace;

/// A mixture of so many new experts that some have no token in a step, and some never.
fn workspace() -> (Workspace, String) {
    let workspace = Workspace::of("mixtral");
    let folder = workspace.path("model");
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    config["num_local_experts"] = 80.into();
    config["num_experts_per_tok"] = 1.into();
    fs::write(folder.join("many.json"), config.to_string()).unwrap();
    let model = format!("model={{config: {0}/many.json, tokenizer: {0}}}", folder.display());
    (workspace, model)
}

#[test]
fn an_expert_without_tokens_is_neither_measured_nor_moved() {
    let (workspace, model) = workspace();
    let options = ["init=random", &model, "micro_batch_size=1", "weight_decay=0.5"];
    let begin = workspace.train("begin", &[&options[..], &["learning_rate=0", "max_steps=1"]].concat());
    let stop = "early_stopping={method: grades, alpha: 0.25, tau: 1.0e9}";
    let run = workspace.train("run", &[&options[..], &[stop]].concat());
    // What is measured freezes at once; what has no gradient at steps 2 and 3 is not measured at step 3.
    let measured =
        |line: &Value| -> BTreeSet<String> { line["signals"].as_object().unwrap().keys().cloned().collect() };
    let signals = run.signals();
    assert_eq!(signals[0]["step"], 3);
    let first = measured(&signals[0]);
    let frozen = |step: usize| -> BTreeSet<String> {
        let events = run.events().into_iter().filter(|event| event["event"] == "freeze" && event["step"] == step);
        events.map(|event| event["unit"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(frozen(3), first);
    let dense = 2 * 4;
    assert!(first.len() > dense && first.len() < dense + 2 * 3 * 80, "{}", first.len());
    let all: BTreeSet<String> = (3..=8).flat_map(frozen).collect();
    let (before, after) = (begin.weights(), run.weights());
    let (mut still, mut moved) = (0, 0);
    for (layer, expert) in (0..2).flat_map(|layer| (0..80).map(move |expert| (layer, expert))) {
        for (role, name) in [("gate", "w1"), ("down", "w2"), ("up", "w3")] {
            let name = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight");
            let unit = format!("language.{layer}.experts.{expert}.{role}");
            if before[&name] == after[&name] {
                // Neither momentum nor decay moves what no token reaches.
                assert!(!all.contains(&unit), "{unit}");
                still += 1;
            } else {
                moved += 1;
            }
        }
    }
    assert!(still > 0 && moved > 0, "{still} {moved}");
}

#[test]
fn a_run_is_taken_up_again_with_the_same_decisions() {
    let (workspace, model) = workspace();
    let stop = "early_stopping={method: grades, alpha: 0.25, tau: {default: 1.0e-9, mlp: 1.0e9}}";
    let options = ["init=random", &model, "micro_batch_size=1", "save_steps=4", stop];
    let whole = workspace.train("whole", &options);
    let resume = format!("resume_from_checkpoint={}", whole.path.join("checkpoints/step-000004").display());
    let resumed = workspace.train("resumed", &[&options[..], &[&resume]].concat());
    assert!(whole.weights() == resumed.weights());
    assert_eq!(whole.summary.frozen_units, resumed.summary.frozen_units);
}

#[test]
fn experts_train_as_adapters_and_on_packed_matrices() {
    let workspace = Workspace::of("mixtral");
    for (name, packed) in [("dense", "load_in_4bit=false"), ("packed", "load_in_4bit=true")] {
        let run = workspace.train(name, &["adapter=lora", "lora_r=2", "lora_target_modules=[w1, w2, q_proj]", packed]);
        assert!(run.metric("/loss")[7] < run.metric("/loss")[0], "{name}");
    }
}
