//! Training adapters: what trains, what is measured, what freezes, what is written.

use std::fs;

use grades_models::weights::Checkpoint;

use crate::runs::{Run, Workspace};

/// Values of an adapter of rank 2 on q, and on all of a layer.
const Q: usize = 2 * (32 + 32);
const LAYER: usize = 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48));

const LORA: [&str; 3] = ["adapter=lora", "lora_r=2", "lora_alpha=4"];

fn adapter(run: &Run) -> Vec<u8> {
    fs::read(run.path.join("adapter/adapter_model.safetensors")).unwrap()
}

fn train(workspace: &Workspace, name: &str, options: &[&str]) -> Run {
    workspace.train(name, &[&LORA[..], options].concat())
}

#[test]
fn only_the_adapters_train_and_are_written() {
    let run = train(&Workspace::new(), "run", &[]);
    let loss = run.metric("/loss");
    assert!(loss[7] < 0.9 * loss[0], "{loss:?}");
    // Two moments in f32.
    assert_eq!(run.metric("/optimizer_bytes")[0], (2 * 2 * LAYER * 4) as f64);
    assert_eq!(run.json("environment.json")["trainable_parameters"], 2 * LAYER);
    assert_eq!(run.summary.model_dir, run.path.join("adapter"));
    assert!(!run.path.join("model").exists());
    let saved = Checkpoint::open(run.path.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(saved.names().count(), 2 * 7 * 2);
    for name in saved.names() {
        assert!(saved.load_f32(name).unwrap().iter().any(|value| *value != 0.0), "{name}");
    }
    let config = run.json("adapter/adapter_config.json");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&2.into(), &4.into()));
    assert!(config["base_model_name_or_path"].as_str().unwrap().ends_with("/model"));
}

#[test]
fn the_signal_of_a_pair_is_that_of_a_plus_that_of_b() {
    let target = "lora_target_modules=[model.layers.0.self_attn.q_proj]";
    let method = "early_stopping={method: grades, signal: gradient, norm: frobenius, tau: 1.0e-9, alpha: 0}";
    let run = train(&Workspace::new(), "run", &[target, method]);
    assert_eq!(run.summary.units, 1);
    let norms = run.metric("/gradient_norm");
    let signals: Vec<f64> =
        run.signals().iter().map(|line| line["signals"]["language.0.q"].as_f64().unwrap()).collect();
    assert_eq!(signals.len(), norms.len());
    // With B = 0 the gradient of A is zero at first; then ‖A‖ + ‖B‖ lies above √(‖A‖² + ‖B‖²), up to √2 times.
    assert!((signals[0] / norms[0] - 1.0).abs() < 1e-6, "{signals:?} {norms:?}");
    for (signal, norm) in signals.iter().zip(&norms).skip(1) {
        assert!(*signal > norm * (1.0 + 1e-6) && *signal < norm * 1.4143, "{signals:?} {norms:?}");
    }
}

#[test]
fn a_frozen_pair_stays_and_drops_its_state() {
    let workspace = Workspace::new();
    let method = "early_stopping={method: grades, alpha: 0.25, tau: {language.0.q: 1.0e9, default: 1.0e-9}}";
    let run = train(&workspace, "run", &[method]);
    assert_eq!(run.summary.frozen_units, 1);
    let bytes = run.metric("/optimizer_bytes");
    assert_eq!(bytes[1] - bytes[7], (2 * Q * 4) as f64);
    let kept = run.metric("/kept_bytes");
    assert_eq!(kept[7], ((2 * LAYER - Q) * 4) as f64);
    let flops = run.metric("/flops/weight_gradient");
    assert!(flops[7] < flops[1]);
    // It froze at the third step, before the update: what a run of two steps would have left.
    let short = train(&workspace, "short", &["max_steps=2"]);
    let values = |run: &Run, name: &str| {
        let saved = Checkpoint::open(run.path.join("adapter/adapter_model.safetensors")).unwrap();
        saved.load_f32(&format!("base_model.model.model.layers.{name}.weight")).unwrap()
    };
    for matrix in ["lora_A", "lora_B"] {
        let frozen = format!("0.self_attn.q_proj.{matrix}");
        assert_eq!(values(&run, &frozen), values(&short, &frozen), "{frozen}");
        let trained = format!("1.self_attn.q_proj.{matrix}");
        assert_ne!(values(&run, &trained), values(&short, &trained), "{trained}");
    }
    let all = train(&workspace, "all", &["early_stopping={method: grades, alpha: 0.25, tau: 1.0e9}"]);
    assert_eq!((all.summary.steps, all.summary.frozen_units), (3, 14));
}

#[test]
fn a_resumed_run_ends_as_an_uninterrupted_one() {
    for (index, method) in [
        "{method: grades, tau: auto, auto: {window: 2, exhausted: 0.9}}",
        "{method: grades, alpha: 0.25, tau: {q: 1.0e9, default: 1.0e-9}, patience: 2}",
        "{method: grades, signal: weight_change, tau: 1.0e-9, interval: 2, alpha: 0.1}",
        "{method: validation_loss, patience: 50}",
    ]
    .iter()
    .enumerate()
    {
        let workspace = Workspace::new();
        let early_stopping = format!("early_stopping={method}");
        let options = [&early_stopping, "val_set_size=4", "save_steps=1"];
        let whole = train(&workspace, "whole", &options);
        for step in [1, 2, 4] {
            let checkpoint = whole.path.join(format!("checkpoints/step-{step:06}"));
            if !checkpoint.exists() {
                assert!(step > 1 && whole.summary.steps <= step, "no checkpoint of step {step} with {method}");
                continue;
            }
            let weights = Checkpoint::open(checkpoint.join("weights.safetensors")).unwrap();
            assert!(weights.names().all(|name| name.contains(".lora_")), "the base is in the checkpoint");
            let resume = format!("resume_from_checkpoint={}", checkpoint.display());
            let resumed = train(&workspace, &format!("resumed-{index}-{step}"), &[&options[..], &[&resume]].concat());
            assert_eq!(adapter(&resumed), adapter(&whole), "{step}, {method}");
            let losses = whole.metric("/loss");
            let after = resumed.metric("/loss");
            assert_eq!(after, losses[losses.len() - after.len()..], "{step}, {method}");
            assert_eq!(resumed.summary.frozen_units, whole.summary.frozen_units, "{step}, {method}");
        }
    }
}

#[test]
fn what_does_not_fit_the_model_leaves_no_directory() {
    let workspace = Workspace::new();
    for (options, named) in [
        (["adapter=lora", "lora_target_modules=[q_proj, query]"], "`query`"),
        (["adapter=lora", "lora_r=17"], "`lora_r: 17`"),
    ] {
        let error = workspace.attempt("run", &options).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(!workspace.path("run").exists());
    }
}
