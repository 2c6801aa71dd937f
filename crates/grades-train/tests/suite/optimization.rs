//! Repeatability, accumulation, clipping, and the restored best weights.

use std::fs;

use grades::StopReason;

use crate::records::CLOCKED;
use crate::runs::{Run, Workspace, relative_error, weights};

/// The metrics without what a clock or the system says.
fn lasting(run: &Run) -> Vec<serde_json::Value> {
    let mut metrics = run.metrics();
    for line in &mut metrics {
        for key in CLOCKED {
            assert!(line.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
    }
    metrics
}

#[test]
fn the_same_config_gives_the_same_run_bit_by_bit() {
    let workspace = Workspace::new();
    let options =
        ["sample_packing=true", "sequence_len=100", "early_stopping={method: grades, trace: true}", "val_set_size=4"];
    let (first, second) = (workspace.train("first", &options), workspace.train("second", &options));
    assert_eq!(lasting(&first), lasting(&second));
    assert_eq!(first.signals(), second.signals());
    assert_eq!(first.events(), second.events());
    let bytes = |run: &Run| fs::read(run.summary.model_dir.join("model.safetensors")).unwrap();
    assert_eq!(bytes(&first), bytes(&second));
    let other = workspace.train("other", &[&options[..], &["seed=7"][..]].concat());
    assert_ne!(lasting(&first), lasting(&other));
}

#[test]
fn four_micro_batches_of_one_are_one_of_four() {
    let workspace = Workspace::new();
    let sgd = ["optimizer=sgd", "learning_rate=0.1", "max_grad_norm=0", "max_steps=5"];
    let with = |name, sizes: [&str; 2]| workspace.train(name, &[&sgd[..], &sizes[..]].concat());
    let whole = with("whole", ["micro_batch_size=4", "gradient_accumulation_steps=1"]);
    let split = with("split", ["micro_batch_size=1", "gradient_accumulation_steps=4"]);
    for name in ["/loss", "/gradient_norm"] {
        for (whole, split) in whole.metric(name).iter().zip(split.metric(name)) {
            assert!((split / whole - 1.0).abs() < 1e-5, "{name}: {whole} and {split}");
        }
    }
    assert_eq!(whole.metric("/tokens"), split.metric("/tokens"));
    let start = weights(&workspace.path("model"));
    for ((name, whole), split) in whole.weights().iter().zip(split.weights().values()) {
        assert!(relative_error(split, whole) < 1e-5, "{name}");
        assert!(relative_error(whole, &start[name]) > 1e-4, "{name} has not moved");
    }
}

#[test]
fn clipping_scales_all_gradients_down_to_the_norm() {
    let workspace = Workspace::new();
    let sgd = ["optimizer=sgd", "learning_rate=0.5", "max_steps=1"];
    let with = |name, norm| workspace.train(name, &[&sgd[..], &[norm][..]].concat());
    let free = with("free", "max_grad_norm=0");
    let norm = free.metric("/gradient_norm")[0];
    let (loose, tight) = (format!("max_grad_norm={}", 1.01 * norm), format!("max_grad_norm={}", 0.1 * norm));
    let (loose, tight) = (with("loose", &loose), with("tight", &tight));
    assert_eq!(loose.weights(), free.weights());
    // The norm that is recorded is the one before clipping.
    assert_eq!(tight.metric("/gradient_norm"), [norm]);
    let start = weights(&workspace.path("model"));
    let move_of = |run: &Run| -> Vec<f32> {
        run.weights().iter().flat_map(|(name, now)| now.iter().zip(&start[name]).map(|(n, s)| n - s)).collect()
    };
    let (free, tight) = (move_of(&free), move_of(&tight));
    let scaled: Vec<f32> = free.iter().map(|f| 0.1 * f).collect();
    assert!(relative_error(&tight, &scaled) < 1e-4);
    // Δw = η g, so the recorded norm is that of all gradients together.
    let length = free.iter().map(|f| f64::from(*f).powi(2)).sum::<f64>().sqrt() / 0.5;
    assert!((length / norm - 1.0).abs() < 1e-4, "{length} against {norm}");
}

#[test]
fn early_stopping_by_validation_loss_restores_the_best_weights() {
    let workspace = Workspace::new();
    let options = [
        "val_set_size=6",
        "max_steps=40",
        "learning_rate=0.1",
        "early_stopping={method: validation_loss, every: 0.025, patience: 3}",
    ];
    let run = workspace.train("stops", &options);
    let losses = run.metric("/val_loss");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let best_step = losses.iter().position(|loss| *loss == best).unwrap() + 1;
    assert_eq!(run.summary.stopped_by.as_deref(), Some(StopReason::ValidationLoss.name()));
    assert!(run.summary.steps < 40 && losses.len() == run.summary.steps);
    assert_eq!(run.json("summary.json")["val_loss"], best, "of {losses:?}");
    assert_eq!(losses.iter().rposition(|loss| *loss == best), Some(best_step - 1), "{losses:?}");
    assert!(best_step < run.summary.steps, "the last weights are not the best");
    assert_eq!(run.events().last().unwrap()["reason"], "validation_loss");
    // The saved model is that of the best step: a run that ends there has the same weights.
    let until = format!("max_steps={best_step}");
    let short = workspace.train("short", &["val_set_size=6", "learning_rate=0.1", &until]);
    assert_eq!(short.weights(), run.weights());
}
