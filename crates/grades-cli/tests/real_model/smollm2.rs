//! A few real steps on a real model: the file that the environment variable `GRADES_TEST_MODEL` names (`./get-model`
//! fetches it). Without it the test says that it is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn grades(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_grades")).args(arguments).arg("--json").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "grades {arguments:?} failed: {log}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The model that the variable names, and the workspace's folder.
fn model() -> Option<(String, PathBuf)> {
    let Some(model) = std::env::var_os("GRADES_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: set GRADES_TEST_MODEL to the GGUF file that ./get-model fetches");
        return None;
    };
    // Cargo runs tests in the crate's folder; the variable may hold a path relative to the workspace's.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Some((root.join(model).to_string_lossy().into_owned(), root))
}

#[test]
fn a_real_model_writes_trains_freezes_and_writes_again() {
    let Some((model, root)) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").to_string_lossy().into_owned();

    // What transformers 5.23 continues greedily in float32.
    let prompt = ["generate", "--prompt", "The capital of France is", "--max-new-tokens", "2"];
    let written = grades(&[&prompt[..], &["--model", &model]].concat());
    assert_eq!(written["text"], " Paris.");

    let config = root.join("configs/first.yaml").to_string_lossy().into_owned();
    let data = root.join("examples/comparisons.jsonl").to_string_lossy().into_owned();
    let summary = grades(&[
        "train",
        &config,
        &format!("model={model}"),
        &format!("output_dir={run}"),
        &format!("datasets.0.path={data}"),
        "max_steps=6",
        "warmup_steps=1",
        "warmup_ratio=null",
        // Half of the plan is grace; then every matrix is below this threshold, and training ends.
        "early_stopping.tau=1e30",
    ]);
    assert_eq!((&summary["steps"], &summary["stopped_by"]), (&4.into(), &"all_frozen".into()), "{summary}");
    assert_eq!((&summary["units"], &summary["frozen_units"]), (&210.into(), &210.into()));
    let metrics = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> =
        metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect();
    assert!(losses.last() < losses.first(), "the loss does not fall: {losses:?}");

    let trained = format!("{run}/model");
    let written = grades(&[&prompt[..], &["--model", &trained]].concat());
    assert_eq!(written["text"], " Paris.", "a few small steps make the model forget");
}

#[test]
fn adapters_train_on_a_real_model_that_stays_in_its_blocks() {
    let Some((model, root)) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let prompt = ["generate", "--prompt", "The capital of France is", "--max-new-tokens", "2", "--model", &model];
    assert_eq!(grades(&[&prompt[..], &["--load-in-4bit"]].concat())["text"], " Paris.");

    let config = root.join("configs/qlora.yaml").to_string_lossy().into_owned();
    let data = root.join("examples/comparisons.jsonl").to_string_lossy().into_owned();
    let train = |name: &str, options: &[&str]| {
        let (model, run) = (format!("model={model}"), format!("output_dir={}", path(name)));
        let data = format!("datasets.0.path={data}");
        let common = ["train", &config, &model, &run, &data, "max_steps=6", "warmup_steps=1", "warmup_ratio=null"];
        grades(&[&common[..], options].concat())
    };
    let summary = train("run", &["early_stopping.tau=1e30"]);
    assert_eq!((&summary["steps"], &summary["stopped_by"]), (&4.into(), &"all_frozen".into()), "{summary}");
    assert_eq!((&summary["units"], &summary["frozen_units"]), (&210.into(), &210.into()));
    // The blocks are the numbers that would be decoded to f32, so the run is the same within rounding.
    let dense = train("dense", &["early_stopping.tau=1e30", "load_in_4bit=false"]);
    let loss = |summary: &Value| summary["train_loss"].as_f64().unwrap();
    assert!((loss(&summary) - loss(&dense)).abs() < 1e-3 * loss(&dense), "{summary} {dense}");
    let memory = |summary: &Value| summary["peak_memory_bytes"].as_u64();
    assert!(memory(&summary) < memory(&dense) || memory(&dense).is_none(), "{summary} {dense}");
    let adapter = path("run/adapter");
    let written = grades(&[&prompt[..], &["--load-in-4bit", "--adapter", &adapter]].concat());
    assert_eq!(written["text"], " Paris.", "a few small steps make the model forget");
}
