//! A sweep on a tiny model: runs that fork from a trunk, and the maps of what they came to.

use std::fs;

use serde_json::Value;

use crate::program::Workspace;

const SWEEP: [&str; 11] = [
    "sweep",
    "config.yaml",
    "--tau",
    "0.001,1.0e9",
    "--alpha",
    "0.25,0.5",
    "--out",
    "out",
    "max_steps=8",
    "micro_batch_size=1",
    "save_steps=3",
];

#[test]
fn forked_runs_are_those_made_alone_and_each_is_made_once() {
    let workspace = Workspace::new();
    let called = workspace.call(&[&SWEEP[..], &["--tasks", "piqa", "--data-dir", ".", "--json"]].concat());
    assert!(called.succeeded(), "{}", called.stderr());
    let log = called.stderr();
    // A grace of 2 and of 4 steps; the gradient of its last one is kept, so that the steps before it are shared.
    for (name, step) in [("tau0.001-alpha0.25", 1), ("tau1000000000-alpha0.25", 1), ("tau0.001-alpha0.5", 3)] {
        let fork = format!("{name}-seed42: training from out/trunk-seed42/checkpoints/step-{step:06}");
        assert!(log.contains(&fork), "no `{fork}` in {log}");
    }
    let result: Value = serde_json::from_str(&called.stdout()).unwrap();
    let rows = result["rows"].as_array().unwrap();
    let told: Vec<_> =
        rows.iter().map(|row| (row["tau"].as_f64(), row["alpha"].as_f64(), row["steps"].as_f64())).collect();
    let (low, high) = (Some(0.001), Some(1e9));
    let expected = [
        (None, None, 8),
        (low, Some(0.25), 8),
        (low, Some(0.5), 8),
        // Every matrix freezes at the first step after the grace.
        (high, Some(0.25), 3),
        (high, Some(0.5), 5),
    ];
    assert_eq!(told, expected.map(|(tau, alpha, steps)| (tau, alpha, Some(f64::from(steps)))));
    for name in ["tau1000000000-alpha0.5-seed42", "tau0.001-alpha0.25-seed42"] {
        let config = format!("out/configs/{name}.yaml");
        let alone = workspace.json(&["train", &config, &format!("output_dir=alone-{name}")]);
        let model = |run: String| fs::read(workspace.path(&run).join("model/model.safetensors")).unwrap();
        assert!(model(format!("out/{name}")) == model(format!("alone-{name}")), "{name} is not the run made alone");
        let text = fs::read(workspace.path("out").join(name).join("summary.json")).unwrap();
        let forked: Value = serde_json::from_slice(&text).unwrap();
        for key in ["steps", "stopped_by", "train_loss", "val_loss", "flops", "tokens", "monitor_flops", "checks"] {
            assert_eq!(forked[key], alone[key], "{key} of {name}");
        }
    }
    let page = fs::read_to_string(workspace.path("out/sweep.html")).unwrap();
    assert!(page.contains("Time in seconds") && page.contains("τ 0.001") && page.contains("α 0.25"));
    let markdown = fs::read_to_string(workspace.path("out/sweep.md")).unwrap();
    let steps = markdown.split("## Steps made").nth(1).unwrap();
    let high = steps.lines().find(|line| line.contains("1000000000")).unwrap();
    assert_eq!(high.split('|').map(str::trim).collect::<Vec<_>>()[2..4], ["3", "5"], "{steps}");

    let again = workspace.call(&[&SWEEP[..], &["--tasks", "piqa", "--data-dir", "."]].concat());
    assert!(again.succeeded() && !again.stderr().contains(": training"), "{}", again.stderr());
}

#[test]
fn mistakes_show_before_anything_is_trained() {
    let workspace = Workspace::new();
    let refuses = |tau: &str, alpha: &str, options: &[&str], named: &[&str]| {
        let sweep = ["sweep", "config.yaml", "--tau", tau, "--alpha", alpha, "--out", "out"];
        let called = workspace.call(&[&sweep[..], options].concat());
        let stderr = called.stderr();
        assert_eq!(called.code(), Some(1), "{stderr}");
        named.iter().for_each(|part| assert!(stderr.contains(part), "`{part}` is not in: {stderr}"));
        assert!(!workspace.path("out").exists());
    };
    refuses("1", "0.5,1.5", &[], &["tau1-alpha1.5-seed42", "alpha"]);
    refuses("1", "0.5", &["learning_rat=1"], &["learning_rat"]);
    refuses("1", "0.5", &["datasets.0.path=absent.jsonl"], &["absent.jsonl"]);
}
