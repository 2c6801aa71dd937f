//! A comparison on a tiny model: every run once, those that are there not again, and what is wrong told by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use crate::program::{Called, Workspace};

const COMPARE: [&str; 9] =
    ["compare", "config.yaml", "--methods", "none,grades", "--seeds", "1", "--out", "out", "early_stopping.tau=1.0e9"];
const SCORED: [&str; 4] = ["--tasks", "piqa", "--data-dir", "."];

/// When each file of the runs was last written; the results are written at every call.
fn times(folder: &Path) -> BTreeMap<String, SystemTime> {
    let mut times = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let (path, data) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            match data.is_dir() {
                true => folders.push(path),
                false => _ = times.insert(path.display().to_string(), data.modified().unwrap()),
            }
        }
    }
    times.into_iter().filter(|(path, _)| !path.contains("/compare.")).collect()
}

/// The lines of the log that tell of a process.
fn made(called: &Called) -> Vec<String> {
    let line = |line: &str| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')).map(str::to_owned);
    let titles = |line: &String| line.contains(": training") || line.contains(": scoring");
    called.stderr().lines().filter_map(line).filter(titles).collect()
}

fn results(workspace: &Workspace) -> Value {
    serde_json::from_slice(&fs::read(workspace.path("out/compare.json")).unwrap()).unwrap()
}

#[test]
fn every_run_is_made_once() {
    let workspace = Workspace::new();
    let compare = [&COMPARE[..], &SCORED, &["--json"]].concat();
    let called = workspace.call(&compare);
    assert!(called.succeeded(), "{}", called.stderr());
    let expected = [
        "the model before training: scoring piqa",
        "full-none-seed42: training",
        "full-none-seed42: scoring piqa",
        "full-grades-seed42: training",
        "full-grades-seed42: scoring piqa",
    ];
    assert_eq!(made(&called), expected);
    let result: Value = serde_json::from_str(&called.stdout()).unwrap();
    let rows = result["rows"].as_array().unwrap();
    let methods: Vec<_> = rows.iter().map(|row| row["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["base", "none", "grades"]);
    // Three steps, the first two of grace; the third freezes everything, and all is told as the runs have it.
    for (row, name) in rows[1..].iter().zip(["full-none-seed42", "full-grades-seed42"]) {
        let run = workspace.path("out").join(name);
        let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
        // JSON's numbers may come back in another last bit.
        let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-12;
        assert!(close(&row["seconds"]["mean"], &summary["seconds"]), "{row} {summary}");
        assert!(close(&row["val_loss"]["mean"], &summary["val_loss"]), "{row} {summary}");
        assert_eq!(row["peak_memory_bytes"].as_f64(), summary["peak_memory_bytes"].as_f64());
        assert_eq!(row["frozen_units"], if name.contains("grades") { 14.0 } else { 0.0 });
        let eval = workspace.json(&[&["eval", "--model", run.join("model").to_str().unwrap()][..], &SCORED].concat());
        assert_eq!(row["accuracy"]["piqa"]["mean"], eval["tasks"]["piqa"]["acc"]);
    }
    assert_eq!((&rows[1]["speedup"], &rows[1]["flops_ratio"]), (&1.0.into(), &1.0.into()));
    assert_eq!(result["tests"][0]["task"], "piqa");
    let (before, written) = (times(&workspace.path("out")), results(&workspace));
    let page = fs::read_to_string(workspace.path("out/compare.html")).unwrap();
    assert!(page.contains("full-grades-seed42/report.html") && !page.contains("so far"));

    // Again: nothing is made, and the result is the same.
    let again = workspace.call(&compare);
    assert!(again.succeeded() && made(&again).is_empty(), "{}", again.stderr());
    assert_eq!((times(&workspace.path("out")), results(&workspace)), (before.clone(), written));

    // One seed, an adapter with options of its own and fewer questions more: only what is new is made.
    let more = [
        "compare",
        "config.yaml",
        "--methods",
        "none,grades",
        "--adapters",
        "full,lora",
        "--seeds",
        "2",
        "--out",
        "out",
        "--limit",
        "3",
        "early_stopping.tau=1.0e9",
        "lora:lora_r=4",
        // For adapters alone, though all runs are given it.
        "load_in_4bit=true",
    ];
    let more = workspace.call(&[&more[..], &SCORED].concat());
    assert!(more.succeeded(), "{}", more.stderr());
    let trained: Vec<_> = made(&more).into_iter().filter(|line| line.ends_with("training")).collect();
    let names = [
        "lora-none-seed42",
        "lora-grades-seed42",
        "full-none-seed43",
        "full-grades-seed43",
        "lora-none-seed43",
        "lora-grades-seed43",
    ];
    assert_eq!(trained, names.map(|name| format!("{name}: training")));
    assert!(workspace.path("out/lora-none-seed42/adapter").is_dir());
    let config = |run: &str| fs::read_to_string(workspace.path("out").join(run).join("config.yaml")).unwrap();
    assert!(config("lora-none-seed42").contains("lora_r: 4"));
    for (run, packed) in [("lora-none-seed42", true), ("full-none-seed43", false)] {
        assert!(config(run).contains(&format!("load_in_4bit: {packed}")), "{run}");
    }
    let after = times(&workspace.path("out"));
    assert!(before.iter().all(|(path, time)| after[path] == *time), "a run that was there was changed");
    assert_eq!(results(&workspace)["questions"]["piqa"], 3);
    assert_eq!(results(&workspace)["rows"].as_array().unwrap().len(), 5);
}

#[test]
fn an_interrupted_comparison_goes_on() {
    let workspace = Workspace::new();
    let compare = [&COMPARE[..], &["save_steps=1"]].concat();
    assert!(workspace.call(&compare).succeeded());
    let (none, grades) = (workspace.path("out/full-none-seed42"), workspace.path("out/full-grades-seed42"));
    let model = |run: &Path| fs::read(run.join("model/model.safetensors")).unwrap();
    let (of_none, of_grades) = (model(&none), model(&grades));
    // One run as if it had been stopped after its second step, one before its first checkpoint.
    for run in [&none, &grades] {
        fs::remove_file(run.join("summary.json")).unwrap();
        fs::remove_dir_all(run.join("model")).unwrap();
    }
    fs::remove_dir_all(grades.join("checkpoints")).unwrap();
    let again = workspace.call(&compare);
    assert!(again.succeeded(), "{}", again.stderr());
    let made = made(&again);
    assert!(made[0].starts_with("full-none-seed42: training from") && made[0].ends_with("step-000002"), "{made:?}");
    assert_eq!(made[1..], ["full-grades-seed42: training"]);
    assert!(model(&none) == of_none, "the resumed run is another");
    assert!(model(&workspace.path("out/full-grades-seed42.2")) == of_grades);
    assert!(!grades.join("summary.json").exists(), "the run cut short was changed");
    let call = workspace.call(&compare);
    assert!(call.succeeded() && !call.stderr().contains(": training"));
}

#[test]
fn a_run_that_fails_takes_no_other_with_it() {
    let workspace = Workspace::new();
    let compare = [&COMPARE[..], &["none:learning_rate=1.0e+30", "--json"]].concat();
    let called = workspace.call(&compare);
    assert_eq!(called.code(), Some(1));
    let last = called.stderr().lines().last().unwrap().to_owned();
    assert!(last.starts_with("error: ") && last.contains("1 of 2 runs") && last.contains("full-none-seed42"), "{last}");
    let result: Value = serde_json::from_str(&called.stdout()).unwrap();
    assert_eq!(result["failed"][0]["name"], "full-none-seed42");
    assert!(result["failed"][0]["message"].as_str().unwrap().contains(" of step "), "{result}");
    assert_eq!(result["rows"][0]["seconds"], Value::Null);
    assert!(result["rows"][1]["seconds"]["mean"].as_f64().unwrap() > 0.0);
    assert!(fs::read_to_string(workspace.path("out/compare.md")).unwrap().contains("full-none-seed42 failed"));
}

#[test]
fn mistakes_show_before_anything_is_trained() {
    let workspace = Workspace::new();
    let refuses = |options: &[&str], named: &[&str]| {
        let called = workspace.call(&[&["compare", "config.yaml", "--seeds", "1", "--out", "out"], options].concat());
        let stderr = called.stderr();
        assert_eq!((called.code(), called.stdout().as_str()), (Some(1), ""), "{options:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{options:?}: {stderr}");
        named.iter().for_each(|part| assert!(stderr.contains(part), "`{part}` is not in: {stderr}"));
    };
    refuses(&["--methods", "none,gradse"], &["gradse", "grades", "validation_loss"]);
    refuses(&["--adapters", "full,lorra"], &["lorra", "full", "lora"]);
    refuses(&["--methods", "none,shorter:grades"], &["shorter:grades", "add grades to --methods"]);
    refuses(&["--methods", "none", "--frontier", "val_set_size=0"], &["--frontier", "val_set_size"]);
    refuses(&["--methods", "none", "--frontier", "--frontier-lengths", "2"], &["--frontier-lengths", "at most 1"]);
    refuses(&["--tasks", "pika", "--data-dir", "."], &["pika", "piqa"]);
    refuses(&["--tasks", "piqa", "--data-dir", "absent"], &["absent/piqa"]);
    refuses(&["lorra:lora_r=4"], &["lorra", "lora"]);
    refuses(&["val_set_size=0"], &["full-validation_loss-seed42", "val_set_size"]);
    refuses(&["--methods", "none", "none:learning_rat=1"], &["full-none-seed42", "learning_rat", "learning_rate"]);
    assert!(!workspace.path("out").exists());
    // A folder of something else, and one of another config.
    fs::create_dir(workspace.path("out")).unwrap();
    fs::write(workspace.path("out/notes.txt"), "mine").unwrap();
    refuses(&["--methods", "none"], &["out", "no comparison"]);
    fs::remove_dir_all(workspace.path("out")).unwrap();
    let none = ["compare", "config.yaml", "--methods", "none", "--seeds", "1", "--out", "out"];
    assert!(workspace.call(&none).succeeded());
    refuses(&["--methods", "none", "learning_rate=0.02"], &["out/full-none-seed42", "learning_rate", "0.01", "0.02"]);
    // What does not change the result may differ.
    assert!(workspace.call(&[&none[..], &["logging_steps=1", "save_steps=1"]].concat()).succeeded());
    // Answers to other questions are not taken for those asked now.
    let scored = [&none[..], &SCORED].concat();
    assert!(workspace.call(&scored).succeeded());
    let questions = fs::read_to_string(workspace.path("piqa/validation.jsonl")).unwrap();
    fs::write(
        workspace.path("piqa/validation.jsonl"),
        questions.lines().rev().map(|l| format!("{l}\n")).collect::<String>(),
    )
    .unwrap();
    assert!(workspace.call(&scored).succeeded(), "the right answers are 0, 1, 0, 1, 0 from both ends");
    fs::write(
        workspace.path("piqa/validation.jsonl"),
        questions.lines().skip(1).map(|l| format!("{l}\n")).collect::<String>(),
    )
    .unwrap();
    let other = workspace.call(&scored);
    assert!(other.code() == Some(1) && other.stderr().contains("piqa.jsonl"), "{}", other.stderr());
}

#[test]
fn a_frontier_and_controls_are_made_of_the_runs() {
    let workspace = Workspace::new();
    let mut config = fs::read_to_string(workspace.path("config.yaml")).unwrap();
    config.push_str(
        "\ncompare:\n  mine:\n    early_stopping: {method: grades, tau: 1.0e9, alpha: 0.5}\n    lr_scheduler: constant\n",
    );
    fs::write(workspace.path("config.yaml"), config).unwrap();
    let methods = "shorter:mine,none,all_at_once:mine,random:mine,reverse:mine,mine,linear";
    let compare = [
        "compare",
        "config.yaml",
        "--methods",
        methods,
        "--seeds",
        "2",
        "--out",
        "out",
        "--frontier",
        "--frontier-lengths",
        "0.4,1",
        "--frontier-rates",
        "0.5,1,2",
        "--json",
    ];
    let called = workspace.call(&compare);
    assert!(called.succeeded(), "{}", called.stderr());
    let result: Value = serde_json::from_str(&called.stdout()).unwrap();
    let config = |run: &str| fs::read_to_string(workspace.path("out").join(run).join("config.yaml")).unwrap();
    let summary = |run: &str| -> Value {
        serde_json::from_slice(&fs::read(workspace.path("out").join(run).join("summary.json")).unwrap()).unwrap()
    };
    // Every rate of the short schedule; of the long one the best of the short one and its neighbours, until the best is between
    // two worse ones or at the edge; and of the second seed the best of each.
    let points = result["frontiers"][0]["points"].as_array().unwrap();
    let of_length = |length: f64| points.iter().filter(move |point| point["length"] == length);
    let losses = |length: f64| -> Vec<f64> {
        of_length(length).map(|point| point["runs"][0]["val_loss"].as_f64().unwrap()).collect()
    };
    assert_eq!(losses(0.4).len(), 3);
    assert!((2..=3).contains(&losses(1.0).len()), "{points:?}");
    for length in [0.4, 1.0] {
        let best: Vec<bool> = of_length(length).map(|point| point["best"].as_bool().unwrap()).collect();
        let lowest = losses(length).into_iter().fold(f64::INFINITY, f64::min);
        assert_eq!(best, losses(length).iter().map(|loss| *loss == lowest).collect::<Vec<_>>());
        let runs: Vec<_> = of_length(length).map(|point| point["runs"].as_array().unwrap().len()).collect();
        assert_eq!(runs, best.iter().map(|best| 1 + usize::from(*best)).collect::<Vec<_>>());
    }
    let short = summary("full-frontier-0.4-lr1e-2-seed42");
    let steps = short["planned_steps"].as_u64().unwrap();
    let all = summary("full-none-seed42")["planned_steps"].as_u64().unwrap();
    assert!(0 < steps && steps < all, "{steps} of {all}");
    // The best of the long schedules is no worse than the plain run, which is one of them or has a better neighbour.
    let excess = |method: &str| {
        let row = result["rows"].as_array().unwrap().iter().find(|row| row["method"] == method).unwrap();
        row["excess"]["by_seed"].as_array().unwrap()[0]["nats"].as_f64().unwrap()
    };
    assert!(excess("none") >= -1e-9, "{}", excess("none"));
    // What each control keeps of its method's run.
    let mine = summary("full-mine-seed42");
    assert_eq!(summary("full-shorter-of-mine-seed42")["steps"], mine["steps"]);
    assert!(config("full-shorter-of-mine-seed42").contains("lr_scheduler: cosine"));
    for control in ["all_at_once", "random", "reverse"] {
        assert!(config(&format!("full-{control}-of-mine-seed42")).contains("lr_scheduler: constant"), "{control}");
    }
    assert_eq!(summary("full-random-of-mine-seed42")["frozen_units"], mine["frozen_units"]);
    assert_eq!(summary("full-random-of-mine-seed42")["steps"], mine["steps"]);
    assert_eq!(summary("full-all_at_once-of-mine-seed42")["stopped_by"], "budget");
    let page = fs::read_to_string(workspace.path("out/compare.html")).unwrap();
    assert!(page.contains("Validation loss against arithmetic") && !page.contains("so far"));
    // Again: nothing is made.
    let again = workspace.call(&compare);
    assert!(again.succeeded() && made(&again).is_empty(), "{}", again.stderr());
}
