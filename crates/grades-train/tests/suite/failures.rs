//! Runs that cannot go on, and what they leave behind.

use std::fs;

use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions, TensorToSave, save_checkpoint};
use grades_train::train::{Nonfinite, TrainError};

use crate::runs::Workspace;
use crate::tiny_checkpoint::fixture;

#[test]
fn a_diverged_run_ends_with_the_step_and_its_samples() {
    let workspace = Workspace::new();
    let error = workspace.attempt("run", &["learning_rate=1.0e30"]).unwrap_err();
    let TrainError::Nonfinite { step, found, value, .. } = &error else { panic!("{error}") };
    assert!(*step >= 2 && !value.is_finite());
    let text = error.to_string();
    let found = found.name();
    assert!(text.starts_with(&format!("the {found} of step {step} is {value}, so training cannot go on")), "{text}");
    assert!(text.contains("lower learning_rate"), "{text}");
    // The steps before are on record; no model is.
    let metrics = fs::read_to_string(workspace.path("run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), step - 1);
    assert!(!workspace.path("run/model").exists() && !workspace.path("run/summary.json").exists());
}

#[test]
fn a_poisoned_weight_shows_at_the_first_step_with_its_samples() {
    let workspace = Workspace::new();
    let sound = Checkpoint::open(fixture("llama")).unwrap();
    let tensors = sound.names().map(|name| {
        let mut values = sound.load_f32(name).unwrap();
        if name == "model.layers.1.mlp.down_proj.weight" {
            values[17] = f32::NAN;
        }
        TensorToSave::new(name, &sound.info(name).unwrap().shape, values)
    });
    let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
    let model = workspace.path("model");
    for name in ["config.json", "model.safetensors"] {
        fs::remove_file(model.join(name)).unwrap();
    }
    save_checkpoint(&model, sound.config().unwrap(), tensors, &options).unwrap();
    let error = workspace.attempt("run", &[]).unwrap_err();
    let TrainError::Nonfinite { step: 1, found: Nonfinite::Loss, samples, .. } = &error else { panic!("{error}") };
    assert_eq!(samples.split(", ").count(), 4);
    assert!(error.to_string().ends_with(&format!("check the samples of this step: {samples}")), "{error}");
}

#[test]
fn a_run_directory_is_never_overwritten() {
    let workspace = Workspace::new();
    let first = workspace.train("run", &["max_steps=1"]);
    let summary = fs::read(first.path.join("summary.json")).unwrap();
    let error = workspace.attempt("run", &["max_steps=2"]).unwrap_err();
    assert!(matches!(&error, TrainError::RunExists { path } if *path == first.path), "{error}");
    assert_eq!(fs::read(first.path.join("summary.json")).unwrap(), summary);
    // An empty directory is free.
    fs::create_dir(workspace.path("empty")).unwrap();
    workspace.train("empty", &["max_steps=1"]);
}

#[test]
fn what_is_wrong_before_the_first_step_leaves_no_directory() {
    let workspace = Workspace::new();
    let cases: [(&[&str], &str); 4] = [
        (&["early_stopping={method: grades, tau: {language.7.q: 1.0, default: 1.0}}"], "language.7.q"),
        (&["val_set_size=20"], "val_set_size"),
        (&["sequence_len=10"], "sequence_len"),
        (&["datasets.0.type=alpaca"], "instruction"),
    ];
    for (options, named) in cases {
        let error = workspace.attempt("run", options).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(!workspace.path("run").exists(), "{options:?} left a directory");
    }
}
