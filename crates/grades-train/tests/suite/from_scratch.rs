//! Training from random values.

use std::fs;

use serde_json::Value;

use crate::runs::Workspace;

#[test]
fn a_new_model_begins_random_by_its_seed_and_trains_with_any_method() {
    let workspace = Workspace::new();
    let folder = workspace.path("model");
    let model = format!("model={{config: {0}/config.json, tokenizer: {0}}}", folder.display());
    let still = ["init=random", &model, "learning_rate=0", "max_steps=1"];
    let first = workspace.train("first", &still);
    let weights = first.weights();
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let std = config["initializer_range"].as_f64().unwrap_or(0.02);
    for (name, values) in &weights {
        if name.ends_with("norm.weight") {
            assert!(values.iter().all(|value| *value == 1.0), "{name}");
        } else {
            // Five standard errors of an estimated deviation.
            let n = values.len() as f64;
            let found = (values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / n).sqrt();
            assert!((found / std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{name}: {found} instead of {std}");
        }
    }
    assert_eq!(workspace.train("same", &still).weights(), weights);
    assert_ne!(workspace.train("other", &[&still[..], &["seed=7"]].concat()).weights(), weights);
    // A folder with weights gives its description alone.
    let described = workspace.train("described", &["init=random", "learning_rate=0", "max_steps=1"]);
    assert_eq!(described.weights(), weights);

    let stops = "early_stopping={method: grades, alpha: 0.5, tau: 1.0e9}";
    let run = workspace.train("run", &["init=random", &model, stops, "val_set_size=4"]);
    assert_eq!((run.summary.steps, run.summary.frozen_units), (5, 14));
    assert!(run.metric("/loss")[4] < run.metric("/loss")[0]);
}

#[test]
fn a_validation_that_no_method_asked_for_is_not_charged() {
    let workspace = Workspace::new();
    let run = workspace.train("run", &["val_set_size=4", "eval_steps=0"]);
    assert!(run.summary.val_loss.is_some() && run.metrics().iter().all(|line| line.get("val_loss").is_none()));
    assert_eq!(run.summary.validation_seconds, Some(0.0));
    let charged = workspace.train("charged", &["val_set_size=4", "early_stopping={method: validation_loss}"]);
    let validation_seconds = charged.summary.validation_seconds.unwrap();
    assert!(validation_seconds > 0.0);
    assert!(charged.summary.seconds >= validation_seconds);
}
