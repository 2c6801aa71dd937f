//! Whole runs that learn from preferences.

use std::fs;

use grades_report::record::Step;
use grades_train::config::Config;
use serde_json::{Value, json};

use crate::records::without_clocks;
use crate::runs::{Run, Workspace, weights};
use crate::tiny_checkpoint::write_rows;

const METHODS: [&str; 5] = ["dpo", "ipo", "orpo", "simpo", "kto"];

/// A workspace with 20 rows of preferences, in pairs and judged.
fn workspace() -> Workspace {
    with_rows(Workspace::new())
}

fn with_rows(workspace: Workspace) -> Workspace {
    let prompt = |index: usize| format!("the {} fox likes the", ["red", "old", "small", "quiet"][index % 4]);
    let pair = |index: usize| {
        let (chosen, rejected) = (["bell", "boat", "kite"][index % 3], ["river", "garden"][index % 2]);
        json!({ "prompt": prompt(index), "chosen": format!(" {chosen}"), "rejected": format!(" {rejected}") })
    };
    write_rows(&workspace.path("pairs.jsonl"), (0..20).map(pair));
    let judged = |index: usize| {
        let answer = [" bell", " river"][index % 2];
        json!({ "prompt": prompt(index / 2), "completion": answer, "label": index.is_multiple_of(2) })
    };
    write_rows(&workspace.path("judged.jsonl"), (0..20).map(judged));
    workspace
}

fn train(workspace: &Workspace, name: &str, rl: &str, options: &[&str]) -> Run {
    let (file, kind) = match rl {
        "kto" => ("judged", "unpaired_preference"),
        _ => ("pairs", "preference"),
    };
    let path = workspace.path(&format!("{file}.jsonl"));
    let data = format!("datasets=[{{path: {}, type: {kind}}}]", path.display());
    let rl = format!("rl={rl}");
    workspace.train(name, &[&[data.as_str(), &rl, "learning_rate=0.003"][..], options].concat())
}

fn steps(run: &Run) -> Vec<Step> {
    run.metrics().into_iter().map(|line| serde_json::from_value(line).unwrap()).collect()
}

#[test]
fn each_method_learns_which_answers_are_better() {
    let workspace = workspace();
    for rl in METHODS {
        let run = train(&workspace, rl, rl, &["max_steps=16", "val_set_size=4", "eval_steps=16", "rl_beta=0.5"]);
        let steps = steps(&run);
        let (first, last) = (&steps[0], &steps[15]);
        assert!(last.loss < first.loss, "{rl}: {:?} to {:?}", first.loss, last.loss);
        let margin = |step: &Step| step.rewards.unwrap().margins.unwrap();
        assert!(margin(last) > margin(first) + 0.1, "{rl}: {} to {}", margin(first), margin(last));
        let of_validation = last.val_rewards.unwrap();
        assert!(of_validation.margins.unwrap() > 0.0, "{rl}");
        assert!(last.val_loss.is_some() && steps[3].val_rewards.is_none(), "{rl}");
        match rl {
            "kto" => assert!(last.kl.unwrap() >= 0.0 && last.rewards.unwrap().accuracies.is_none()),
            _ => assert!(of_validation.accuracies == Some(1.0) && last.kl.is_none(), "{rl}"),
        }
        let logps = last.logps.unwrap();
        assert!(logps.chosen.unwrap() < 0.0 && logps.rejected < logps.chosen, "{rl}");
        let environment = run.json("environment.json");
        assert_eq!((&environment["samples"], &environment["validation_samples"]), (&16.into(), &4.into()), "{rl}");
    }
}

/// Before it has learnt anything the model is its own reference, also under adapters and in bf16.
#[test]
fn the_first_step_has_no_margin() {
    let workspace = workspace();
    for (name, options) in [
        ("plain", &[][..]),
        ("adapters", &["adapter=lora", "lora_r=4"][..]),
        ("dora", &["adapter=lora", "lora_r=4", "peft_use_dora=true"][..]),
        ("bf16", &["precision=bf16"][..]),
    ] {
        let run =
            train(&workspace, name, "dpo", &[&["gradient_accumulation_steps=2", "max_steps=2"][..], options].concat());
        let steps = steps(&run);
        let (loss, rewards) = (steps[0].loss.unwrap(), steps[0].rewards.unwrap());
        assert!((loss - 2.0_f64.ln()).abs() < 1e-4, "{name}: {loss}");
        assert!(rewards.margins.unwrap().abs() < 1e-3, "{name}: {rewards:?}");
        assert!((steps[1].loss.unwrap() - 2.0_f64.ln()).abs() > 1e-3, "{name}");
    }
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let workspace = workspace();
    for rl in METHODS {
        for (kind, options) in [("full", &[][..]), ("lora", &["adapter=lora", "lora_r=4"][..])] {
            let options =
                [&["save_steps=3", "val_set_size=4", "eval_steps=2", "micro_batch_size=3"][..], options].concat();
            let whole = train(&workspace, &format!("{rl}-{kind}"), rl, &options);
            let checkpoint = whole.path.join("checkpoints/step-000003");
            let resume = format!("resume_from_checkpoint={}", checkpoint.display());
            let resumed =
                train(&workspace, &format!("{rl}-{kind}-on"), rl, &[&options[..], &[resume.as_str()]].concat());
            let after = |run: &Run| {
                let mut lines: Vec<Value> =
                    run.metrics().into_iter().filter(|line| line["step"].as_u64() > Some(3)).collect();
                without_clocks(&mut lines);
                lines
            };
            assert_eq!(after(&resumed), after(&whole), "{rl}, {kind}");
            let file = if kind == "lora" { "adapter/adapter_model.safetensors" } else { "model/model.safetensors" };
            assert_eq!(fs::read(resumed.path.join(file)).unwrap(), fs::read(whole.path.join(file)).unwrap(), "{rl}");
        }
    }
}

/// `method: grades` freezes as it does in any run: at step 3 the queries, for good.
#[test]
fn what_freezes_does_not_move() {
    let workspace = workspace();
    let freeze = "early_stopping={method: grades, alpha: 0.25, tau: {q: 1.0e9, default: 1.0e-9}}";
    for rl in ["dpo", "kto"] {
        let frozen = train(&workspace, &format!("{rl}-frozen"), rl, &[freeze, "weight_decay=0.1"]);
        let two = train(&workspace, &format!("{rl}-two"), rl, &["max_steps=2", "weight_decay=0.1"]);
        for (name, end) in frozen.weights() {
            assert_eq!(name.contains("q_proj"), end == two.weights()[&name], "{rl}: {name}");
        }
        assert_eq!(frozen.summary.frozen_units, 2, "{rl}");
    }
    // All of it: the run ends.
    let all = "early_stopping={method: grades, alpha: 0.25, tau: 1.0e9}";
    let run = train(&workspace, "all", "dpo", &[all]);
    assert_eq!((run.summary.steps, run.summary.frozen_units), (3, run.summary.units));
    // The method that needs no threshold, its average and the search of a rate.
    let auto = ["early_stopping={method: grades, tau: auto}", "learning_rate=auto", "val_set_size=4", "max_steps=12"];
    for rl in ["dpo", "kto"] {
        let run = train(&workspace, &format!("{rl}-auto"), rl, &auto);
        assert!(run.summary.learning_rate.unwrap() > 0.0 && run.summary.val_loss.unwrap().is_finite(), "{rl}");
        assert!(run.events().iter().any(|event| event["event"] == "weight_average"), "{rl}");
    }
}

/// Outputs of frozen layers that are kept, and layers that run again, change nothing but time.
#[test]
fn caches_and_checkpointing_change_nothing() {
    // A tied embedding would part for the cache.
    let workspace = with_rows(Workspace::untied());
    let freeze =
        "early_stopping={method: grades, alpha: 0.25, companions: follow, tau: {language.0.*: 1.0e9, default: 1.0e-9}}";
    for rl in ["dpo", "kto"] {
        let options = [freeze, "val_set_size=4", "eval_steps=2", "max_steps=12"];
        let plain = train(&workspace, &format!("{rl}-plain"), rl, &options);
        for other in ["prefix_cache=memory", "gradient_checkpointing=true"] {
            let run = train(&workspace, &format!("{rl}-{other}"), rl, &[&options[..], &[other]].concat());
            for (one, two) in steps(&run).iter().zip(steps(&plain)) {
                let (one, two) = (one.loss.unwrap(), two.loss.unwrap());
                assert!((one - two).abs() < 1e-3 * two.abs(), "{rl}, {other}: {one} and {two}");
            }
        }
        assert_ne!(plain.weights(), weights(&workspace.path("model")), "{rl}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let pairs = "datasets=[{path: x.jsonl, type: preference}]";
    let refused = |options: &[&str]| {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Config::parse("model: m\noutput_dir: o\n", &options).unwrap_err().to_string()
    };
    for (options, sentence) in [
        (&[pairs][..], "set rl"),
        (&[pairs, "rl=grpo"], "rl"),
        (&["datasets=[{path: x.jsonl, type: completion}]", "rl=dpo"], "type preference"),
        (&["datasets=[{path: x.jsonl, type: unpaired_preference}]", "rl=dpo"], "type preference"),
        (&[pairs, "rl=dpo", "sample_packing=true"], "sample_packing"),
        (&[pairs, "rl=dpo", "train_on_inputs=true"], "train_on_inputs"),
        (&[pairs, "rl=dpo", "rl_beta=0"], "rl_beta"),
        (&[pairs, "rl=dpo", "simpo_gamma=1"], "`simpo_gamma` is read with `rl: simpo` alone"),
        (&[pairs, "rl=kto", "dpo_loss_type=hinge"], "dpo_loss_type"),
        (&[pairs, "rl=dpo", "label_smoothing=0.1"], "dpo_loss_type: robust"),
        (&[pairs, "rl=dpo", "dpo_loss_type=robust", "dpo_label_smoothing=0.5"], "dpo_label_smoothing"),
        (&[pairs, "rl=orpo", "orpo_alpha=0.1"], "rl_beta"),
        (&["datasets=[{path: x.jsonl, type: completion}]", "rl_beta=0.1"], "rl_beta"),
    ] {
        let error = refused(options);
        assert!(error.contains(sentence), "{options:?}: {error}");
    }
    // TRL's names.
    let options = [pairs, "rl=dpo", "beta=0.3", "label_smoothing=0.1", "dpo_loss_type=robust"].map(str::to_owned);
    let config = Config::parse("model: m\noutput_dir: o\n", &options).unwrap();
    assert_eq!((config.rl_beta, config.dpo_label_smoothing), (Some(0.3), Some(0.1)));
    assert_eq!(Config::parse(&config.to_yaml().unwrap(), &[]).unwrap(), config);
}
