//! Frozen adapters that become part of their weights.

use grades_models::weights::Checkpoint;

use crate::arithmetic::workspace_untied;
use crate::runs::{Run, Workspace};

/// Both pairs of q freeze at the third step.
const FREEZE_Q: &str = "early_stopping={method: grades, alpha: 0.25, tau: {q: 1.0e9, default: 1.0e-9}}";

fn train(workspace: &Workspace, name: &str, options: &[&str]) -> Run {
    let common = ["adapter=lora", "lora_r=2", "lora_alpha=4", "val_set_size=4", "save_steps=1", FREEZE_Q];
    workspace.train(name, &[&common[..], options].concat())
}

fn close(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 1e-5
}

#[test]
fn a_folded_pair_computes_the_same_without_its_products() {
    for (workspace, kind) in [(Workspace::new(), "peft_use_dora=false"), (Workspace::of("qwen2"), "peft_use_dora=true")]
    {
        let plain = train(&workspace, "plain", &[kind]);
        let folded = train(&workspace, "folded", &[kind, "fold_frozen=true"]);
        assert_eq!(folded.summary.frozen_units, 2);
        for (found, expected) in folded.metric("/loss").iter().zip(plain.metric("/loss")) {
            assert!(close(*found, expected), "{found} against {expected}, {kind}");
        }
        assert!(close(folded.summary.val_loss.unwrap(), plain.summary.val_loss.unwrap()));
        // The adapter still holds the pairs, as they were when they froze.
        let file = "adapter/adapter_model.safetensors";
        let (found, expected) = (folded.weights_of(file), plain.weights_of(file));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, found) in found.iter().filter(|(name, _)| name.contains("q_proj")) {
            assert_eq!(found, &expected[name], "{name}");
        }
        let weights = Checkpoint::open(folded.path.join("checkpoints/step-000005/weights.safetensors")).unwrap();
        assert!(weights.names().all(|name| name.contains(".lora_")), "the base is in the checkpoint");
    }
}

#[test]
fn the_products_of_a_folded_pair_are_not_executed() {
    let workspace = workspace_untied();
    let (plain, folded) = (train(&workspace, "plain", &[]), train(&workspace, "folded", &["fold_frozen=true"]));
    let saved = |kind: &str| {
        let pairs = plain.metric(kind).into_iter().zip(folded.metric(kind));
        pairs.map(|(plain, folded)| plain - folded).collect::<Vec<_>>()
    };
    // 40 tokens, rank 2, both sides 32, in two layers. The step that freezes them is the third.
    let product = (2 * 40 * 2 * 32) as f64;
    let forward = 2.0 * 2.0 * product;
    // Nothing trains below the first layer, so the gradient goes only to its A, which k and v need.
    let backward = product + 2.0 * product;
    assert_eq!(saved("/flops/forward"), [0.0, 0.0, 0.0, forward, forward, forward, forward, forward]);
    assert_eq!(saved("/flops/input_gradient"), [0.0, 0.0, 0.0, backward, backward, backward, backward, backward]);
    assert_eq!(saved("/flops/weight_gradient"), [0.0; 8]);
}

#[test]
fn a_run_with_folded_pairs_is_resumed_to_the_bit() {
    for (workspace, kind) in [(Workspace::new(), "peft_use_dora=false"), (Workspace::of("qwen2"), "peft_use_dora=true")]
    {
        let options = [kind, "fold_frozen=true", "lora_dropout=0.25"];
        let whole = train(&workspace, "whole", &options);
        for step in [2, 3, 6] {
            let checkpoint = whole.path.join(format!("checkpoints/step-{step:06}"));
            let resume = format!("resume_from_checkpoint={}", checkpoint.display());
            let resumed = train(&workspace, &format!("from-{step}"), &[&options[..], &[resume.as_str()][..]].concat());
            let file = "adapter/adapter_model.safetensors";
            assert!(resumed.weights_of(file) == whole.weights_of(file), "from step {step}, {kind}");
            assert_eq!(resumed.metric("/loss"), whole.metric("/loss")[step..], "from step {step}, {kind}");
            assert_eq!(resumed.summary.val_loss, whole.summary.val_loss);
        }
    }
}
