//! A resumed run goes on exactly as the one that was never interrupted.

use std::fs;
use std::path::Path;

use grades_report::record::Summary;
use grades_train::train::{RunDir, common_steps};
use serde_json::Value;

use crate::records::without_clocks;
use crate::runs::{Run, Workspace};

/// Methods whose memory differs: thresholds on each signal, averages, arrays of their own, the best weights.
const METHODS: [&str; 11] = [
    "{method: grades, alpha: 0.25, tau: {q: 1.0e9, mlp: 2.0, default: 1.0e-9}, patience: 2}",
    "{method: grades, tau: auto, auto: {window: 2, exhausted: 0.9}}",
    "{method: grades, signal: weight_change, tau: 1.0e-9, interval: 2, alpha: 0.1}",
    "{method: grades, signal: relative_gradient_change, norm: spectral, tau: 0.7, alpha: 0.3}",
    "{method: grades, alpha: 0.25, companions: follow, tau: {language.0.*: 1.0e9, default: 1.0e-9}}",
    "{method: grades, unfreeze: true, alpha: 0.1, tau: {q: 1.0e9, default: 1.0e-9}, auto: {window: 2}}",
    "{method: validation_loss, patience: 50}",
    "{method: autofreeze, num_intervals: 4}",
    "{method: freezeout, t0: 0.5}",
    "{method: layerwise_decay, decay: 0.5}",
    "{method: lisa, active_layers: 1, interval_steps: 2}",
];

/// The lines of steps after `step`, without what a clock or the system says and without the checkpoints themselves.
pub(crate) fn after(lines: Vec<Value>, step: u64) -> Vec<Value> {
    let mut lines: Vec<Value> = lines
        .into_iter()
        .filter(|line| line["step"].as_u64().unwrap() > step && line["event"] != "checkpoint")
        .collect();
    without_clocks(&mut lines);
    lines
}

fn model(run: &Run) -> Vec<u8> {
    fs::read(run.summary.model_dir.join("model.safetensors")).unwrap()
}

#[test]
fn a_resumed_run_decides_as_an_uninterrupted_one() {
    for (index, method) in METHODS.iter().enumerate() {
        let workspace = Workspace::new();
        let early_stopping = format!("early_stopping={method}");
        let options = [&early_stopping, "val_set_size=4", "optimizer=adamw", "save_steps=1"];
        let whole = workspace.train("whole", &options);
        for step in [1, 2, 3, 5] {
            let checkpoint = whole.path.join(format!("checkpoints/step-{step:06}"));
            if !checkpoint.exists() {
                assert!(whole.summary.steps <= step, "no checkpoint of step {step} with {method}");
                continue;
            }
            let resume = format!("resume_from_checkpoint={}", checkpoint.display());
            let resumed = workspace.train(&format!("resumed-{index}-{step}"), &[&options[..], &[&resume]].concat());
            let step = step as u64;
            assert_eq!(after(resumed.metrics(), step), after(whole.metrics(), step), "metrics, {step}, {method}");
            assert_eq!(after(resumed.signals(), step), after(whole.signals(), step), "signals, {step}, {method}");
            assert_eq!(after(resumed.events(), step), after(whole.events(), step), "events, {step}, {method}");
            assert_eq!(model(&resumed), model(&whole), "model, {step}, {method}");
            assert_eq!(resumed.summary.train_loss.to_bits(), whole.summary.train_loss.to_bits());
            assert_eq!(resumed.summary.stopped_by, whole.summary.stopped_by);
        }
    }
}

#[test]
fn an_interrupted_run_goes_on_in_its_own_directory() {
    let workspace = Workspace::new();
    let options = ["save_steps=3", "early_stopping={method: grades, trace: true}"];
    let whole = workspace.train("whole", &options);
    // As if the program had been stopped after step 4: the logs are ahead of the checkpoint.
    let run = workspace.path("whole");
    let (metrics, bytes) = (whole.metrics(), model(&whole));
    fs::remove_dir_all(run.join("model")).unwrap();
    fs::remove_file(run.join("summary.json")).unwrap();
    let resume = format!("resume_from_checkpoint={}", run.join("checkpoints/step-000003").display());
    let resumed = workspace.train("whole", &[&options[..], &[&resume]].concat());
    assert_eq!(after(resumed.metrics(), 0), after(metrics, 0));
    assert_eq!(model(&resumed), bytes);
}

/// A run that is killed once more before its first step goes on from the last checkpoint by itself: that must not be one of before,
/// whose lines are cut off.
#[test]
fn no_checkpoint_stays_behind_the_logs() {
    let workspace = Workspace::new();
    let run = workspace.train("run", &["save_steps=1"]);
    fs::remove_file(run.path.join("summary.json")).unwrap();
    let checkpoint = |step: usize| run.path.join(format!("checkpoints/step-{step:06}")).exists();
    assert!(checkpoint(3) && checkpoint(4) && checkpoint(7));
    drop(RunDir::resume(&run.path, Some(3)).unwrap());
    assert_eq!([3, 4, 7].map(checkpoint), [true, false, false]);
    assert_eq!(run.metrics().last().unwrap()["step"], 3);
}

/// A method that has asked for nothing until then goes on from a run without any as from a run of its own.
#[test]
fn a_run_that_forks_from_one_without_early_stopping_is_the_same_to_the_bit() {
    let workspace = Workspace::new();
    let shared = ["val_set_size=4", "eval_steps=0", "warmup_steps=2"];
    let trunk = workspace.train("trunk", &[&shared[..], &["save_steps=[1, 2, 3, 4, 5]"]].concat());
    for (index, (method, common)) in [
        // Of 8 steps; the grace is 4, the gradient of step 4 is kept, and 5 is the first one measured.
        ("{method: grades, alpha: 0.5, tau: {q: 1.0e9, mlp: 2.0, default: 1.0e-9}}", 3),
        ("{method: grades, alpha: 0.5, signal: relative_gradient_change, tau: 0.7, patience: 2}", 3),
        ("{method: grades, alpha: 0.5, signal: gradient, tau: 1.0e9}", 4),
        // The weights after step 5 are compared with those after step 3, which are kept.
        ("{method: grades, alpha: 0.4, signal: weight_change, tau: 1.0e9, interval: 2}", 2),
        ("{method: grades, tau: auto}", 1),
        ("{method: validation_loss, every: 0.5, patience: 1}", 3),
        // Of one layer, which is the last one: its rate falls from the second step on.
        ("{method: freezeout, scale_rates: false}", 1),
        ("{method: layerwise_decay, decay: 0.5}", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let method_option = format!("early_stopping={method}");
        let options = [&shared[..], &[&method_option]].concat();
        let whole = workspace.train(&format!("whole-{index}"), &options);
        assert_eq!(common_steps(&workspace.config("any", &options)).unwrap(), common, "{method}");
        let fork = |step: usize| {
            let checkpoint = trunk.path.join(format!("checkpoints/step-{step:06}"));
            let resume = format!("resume_from_checkpoint={}", checkpoint.display());
            let name = format!("fork-{index}-{step}");
            let result = workspace.attempt(&name, &[&options[..], &[&resume]].concat());
            result.map(|summary| (workspace.path(&name), summary))
        };
        for step in 1..=common {
            let (path, summary) = fork(step).unwrap();
            let lines = |run: &Path, name: &str| {
                let text = fs::read_to_string(run.join(name)).unwrap();
                after(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), step as u64)
            };
            for name in ["metrics.jsonl", "signals.jsonl", "events.jsonl"] {
                assert_eq!(lines(&path, name), lines(&whole.path, name), "{name}, {step}, {method}");
            }
            let model = |summary: &Summary| fs::read(summary.model_dir.join("model.safetensors")).unwrap();
            assert!(model(&summary) == model(&whole.summary), "model, {step}, {method}");
            let told = |summary: &Summary| {
                let Summary { steps, stopped_by, tokens, frozen_units, flops, checks, monitor_flops, .. } =
                    summary.clone();
                let losses = (summary.train_loss.to_bits(), summary.val_loss.map(f64::to_bits));
                (steps, stopped_by, tokens, frozen_units, flops, checks, monitor_flops, losses)
            };
            assert_eq!(told(&summary), told(&whole.summary), "{step}, {method}");
        }
        let error = fork(common + 1).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`none`"), "{error}");
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let workspace = Workspace::new();
    let whole = workspace.train("whole", &["save_steps=4"]);
    let checkpoint = whole.path.join("checkpoints/step-000004");
    let resume = format!("resume_from_checkpoint={}", checkpoint.display());
    let refused = |options: &[&str]| workspace.attempt("refused", options).unwrap_err().to_string();
    for (option, told) in [
        ("optimizer=sgd", "made with optimizer: adamw"),
        ("adam_beta2=0.95", "this config says optimizer: adamw (adam_beta1 0.9, adam_beta2 0.95"),
    ] {
        let error = refused(&[&resume, option]);
        assert!(error.contains(told) && error.contains("resume with the optimizer"), "{error}");
    }
    assert!(refused(&[&resume, "max_steps=9"]).contains("run of 8 steps, but this config plans 9"));
    let nowhere = refused(&["resume_from_checkpoint=nowhere"]);
    assert!(nowhere.contains("`resume_from_checkpoint: nowhere` is not a checkpoint"), "{nowhere}");
    let other = refused(&[&resume, "early_stopping={method: grades}"]);
    assert!(other.contains("grades"), "{other}");
    fs::write(checkpoint.join("weights.safetensors"), b"short").unwrap();
    assert!(refused(&[&resume]).contains("weights.safetensors"));
    assert!(!workspace.path("refused").exists());
    // Nor are the logs of an interrupted run cut back to a checkpoint that cannot be used.
    fs::remove_dir_all(whole.path.join("model")).unwrap();
    fs::remove_file(whole.path.join("summary.json")).unwrap();
    assert!(workspace.attempt("whole", &[&resume]).unwrap_err().to_string().contains("weights.safetensors"));
    assert_eq!(whole.metrics().len(), 8);
}
