//! The files of a run's directory.

use std::fs;

use grades_train::config::Config;
use serde_json::{Value, json};

use crate::runs::{ALL, Workspace};
use crate::tiny_checkpoint::fixture;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_run_leaves_its_whole_record() {
    let workspace = Workspace::new();
    let options = [
        "val_set_size=4",
        "eval_steps=2",
        "early_stopping={method: grades, alpha: 0.25, tau: {q: 1.0e9, language.1.up: 1.0e9, default: 1.0e-9}}",
    ];
    let run = workspace.train("run", &options);
    let mut files: Vec<_> =
        fs::read_dir(&run.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let expected = [
        "config.yaml",
        "environment.json",
        "events.jsonl",
        "metrics.jsonl",
        "model",
        "report.html",
        "signals.jsonl",
        "summary.json",
        "units.json",
    ];
    assert_eq!(files, expected);

    // The resolved config is the run's, and reads back.
    let yaml = fs::read_to_string(run.path.join("config.yaml")).unwrap();
    assert_eq!(Config::parse(&yaml, &[]).unwrap(), workspace.config("run", &options));

    let environment = run.json("environment.json");
    let expected = [
        ("precision", json!("f32")),
        ("samples", json!(16)),
        ("validation_samples", json!(4)),
        ("dropped_samples", json!(0)),
        ("truncated_samples", json!(0)),
        ("parameters", json!(ALL)),
        ("units", json!(14)),
        ("planned_steps", json!(8)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("operating_system", json!(std::env::consts::OS)),
        ("architecture", json!(std::env::consts::ARCH)),
        ("instructions", json!(grades_kernels::instructions())),
    ];
    for (key, value) in expected {
        assert_eq!(environment[key], value, "{key}");
    }
    assert!(environment["threads"].as_u64().unwrap() >= 1);

    let units = run.json("units.json");
    let about = ["method", "signal", "norm", "freezes"].map(|key| units[key].as_str().unwrap());
    assert_eq!(about, ["grades", "gradient_change", "l1", "below"]);
    let listed = units["units"].as_array().unwrap();
    assert_eq!(listed.len(), 14);
    assert_eq!(listed[0], json!({ "unit": "language.0.q", "threshold": 1.0e9 }));
    assert_eq!(listed[1], json!({ "unit": "language.0.k", "threshold": 1.0e-9 }));

    let metrics = run.metrics();
    assert_eq!(metrics.len(), 8);
    for (index, line) in metrics.iter().enumerate() {
        let mut expected = vec![
            "step",
            "loss",
            "learning_rate",
            "gradient_norm",
            "tokens",
            "seconds",
            "step_seconds",
            "monitor_seconds",
            "data_seconds",
            "frozen_units",
            "flops",
            "optimizer_bytes",
            "kept_bytes",
            "resident_bytes",
            "peak_bytes",
        ];
        // Some systems do not let a process reset its peak.
        expected.retain(|key| *key != "peak_bytes" || line.get("peak_bytes").is_some());
        expected.extend((index % 2 == 1).then_some("val_loss"));
        assert_eq!(keys(line), expected);
        assert_eq!(line["step"], index + 1);
        assert_eq!(line["learning_rate"], 0.01);
    }

    // Measured from the first step that decides, and of all that still train.
    let signals = run.signals();
    let steps: Vec<_> = signals.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [3, 4, 5, 6, 7, 8]);
    let counts: Vec<_> = signals.iter().map(|line| keys(&line["signals"]).len()).collect();
    assert_eq!(counts, [14, 11, 11, 11, 11, 11]);
    let freeze =
        |unit: &str| json!({ "event": "freeze", "step": 3, "unit": unit, "signal": signals[0]["signals"][unit] });
    assert_eq!(run.events(), ["language.0.q", "language.1.q", "language.1.up"].map(freeze));
    assert!(signals[0]["signals"]["language.0.q"].as_f64().unwrap() > 0.0);

    let summary = run.json("summary.json");
    // Through text as well, for the last digit of the seconds.
    let printed = serde_json::to_string(&run.summary).unwrap();
    assert_eq!(summary, serde_json::from_str::<Value>(&printed).unwrap());
    let mean = run.metric("/loss").iter().sum::<f64>() / 8.0;
    assert!((summary["train_loss"].as_f64().unwrap() / mean - 1.0).abs() < 1e-12);
    assert_eq!(summary["val_loss"], metrics[7]["val_loss"]);
    assert_eq!(summary["stopped_by"], Value::Null);
    assert_eq!(summary["tokens"], metrics[7]["tokens"]);
}

#[test]
fn the_saved_model_goes_on_where_the_run_ended() {
    let workspace = Workspace::new();
    let run = workspace.train("run", &["val_set_size=6"]);
    let model = format!("model={}", run.summary.model_dir.display());
    let still = ["val_set_size=6", "learning_rate=0", "max_steps=1", &model];
    let again = workspace.train("again", &still);
    assert_eq!(again.summary.val_loss, run.summary.val_loss);
    assert_eq!(again.weights(), run.weights());
    assert!(run.summary.val_loss.unwrap() < workspace.train("start", &still[..3]).summary.val_loss.unwrap());
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(run.summary.model_dir.join(name).is_file(), "{name}");
    }
    let config: Value = serde_json::from_slice(&fs::read(run.summary.model_dir.join("config.json")).unwrap()).unwrap();
    let original: Value = serde_json::from_slice(&fs::read(fixture("llama").join("config.json")).unwrap()).unwrap();
    for key in ["model_type", "hidden_size", "num_key_value_heads", "vocab_size", "tie_word_embeddings"] {
        assert_eq!(config[key], original[key], "{key}");
    }
}

#[test]
fn trackers_get_the_numbers_of_every_step() {
    let workspace = Workspace::new();
    let store = format!("mlflow_tracking_uri={}", workspace.path("mlruns").display());
    let run = workspace.train("run", &["report_to=[tensorboard, mlflow]", "max_steps=2", &store]);
    let (mlflow, id) = (workspace.path("mlruns/0"), run.json("trackers.json")["run_id"].as_str().unwrap().to_owned());
    let read = |name: &str| fs::read_to_string(mlflow.join(&id).join(name)).unwrap();
    let column = |line: &str, at| line.split(' ').nth(at).unwrap().parse::<f64>().unwrap();
    let losses: Vec<f64> = read("metrics/train/loss").lines().map(|line| column(line, 1)).collect();
    let steps: Vec<f64> = read("metrics/train/loss").lines().map(|line| column(line, 2)).collect();
    assert_eq!(steps, [1.0, 2.0]);
    // JSON's numbers may come back in another last bit.
    assert!(losses.iter().zip(run.metric("/loss")).all(|(told, loss)| (told - loss).abs() < 1e-12), "{losses:?}");
    assert_eq!((read("params/max_steps"), read("tags/mlflow.runName")), ("2".to_owned(), "run".to_owned()));
    assert!(read("meta.yaml").contains("status: 3\n"), "{}", read("meta.yaml"));
    let files: Vec<_> = fs::read_dir(run.path.join("tensorboard")).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(files.len(), 1);
    assert!(files[0].file_name().to_string_lossy().contains("tfevents"));
    // The file's version, and one record a step, each with the step's loss as f32.
    let bytes = fs::read(files[0].path()).unwrap();
    let (mut at, mut records) = (0, Vec::new());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        records.push(&bytes[at + 12..at + 12 + length]);
        at += 16 + length;
    }
    assert_eq!(records.len(), 3);
    for (record, loss) in records[1..].iter().zip(losses) {
        let value = [&b"train/loss\x15"[..], &(loss as f32).to_le_bytes()].concat();
        assert!(record.windows(value.len()).any(|bytes| bytes == value));
    }
}

#[test]
fn the_model_s_context_bounds_the_samples() {
    let workspace = Workspace::new();
    let run = workspace.train("run", &["sequence_len=2048", "max_steps=1"]);
    let yaml = fs::read_to_string(run.path.join("config.yaml")).unwrap();
    assert_eq!(Config::parse(&yaml, &[]).unwrap().sequence_len, 128);
}
