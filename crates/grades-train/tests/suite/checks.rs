//! What a method's own checks cost, counted by hand.

use std::fs;

use crate::runs::{ALL, LAYER, Workspace};

/// Values of all matrices that can freeze.
const UNITS: u64 = 2 * LAYER as u64;

#[test]
fn measuring_is_counted_by_element() {
    let workspace = Workspace::new();
    let never = "early_stopping={method: grades, tau: 1.0e-30, trace: true}";
    let summary = workspace.train("change", &[never]).summary;
    // Two operations an element at the first of 8 steps, which has nothing to be compared with, and five at the others.
    assert_eq!(summary.monitor_flops, UNITS * (2 + 7 * 5));
    assert_eq!((summary.checks.measurements, summary.monitor_bytes), (8 * 14, 4 * UNITS));
    let weights = "early_stopping={method: grades, tau: 1.0e-30, signal: weight_change, alpha: 0.5}";
    let summary = workspace.train("weights", &[weights]).summary;
    // Steps 5 to 8, three operations an element.
    assert_eq!((summary.monitor_flops, summary.monitor_bytes), (UNITS * 4 * 3, 4 * UNITS));
    let summary = workspace.train("none", &[]).summary;
    assert_eq!((summary.monitor_flops, summary.monitor_bytes, summary.validation_flops), (0, 0, 0));
}

#[test]
fn validation_is_counted_where_the_run_asks_for_it() {
    let workspace = Workspace::new();
    let flops = |name: &str, options: &[&str]| {
        let summary = workspace.train(name, &[&["val_set_size=4"], options].concat()).summary;
        assert!(summary.val_loss.is_some());
        (summary.validation_flops, summary.checks.validations, summary.monitor_bytes)
    };
    assert_eq!(flops("never", &["eval_steps=0"]), (0, 0, 0), "the validation at the end is for the record");
    let (twice, ..) = flops("twice", &["eval_steps=4"]);
    assert!(twice > 0);
    assert_eq!(flops("often", &["eval_steps=2"]), (2 * twice, 0, 0));
    let method = "early_stopping={method: validation_loss, every: 0.5}";
    // The best weights are kept, all of them.
    assert_eq!(flops("method", &["eval_steps=0", method]), (twice, 2, 4 * ALL as u64));
}

#[test]
fn trackers_get_the_validation_loss_at_the_end() {
    let workspace = Workspace::new();
    for (eval_steps, times) in [("eval_steps=0", 1), ("eval_steps=4", 2)] {
        let name = format!("run-{times}");
        let store = format!("mlflow_tracking_uri={}", workspace.path(&format!("mlruns-{times}")).display());
        let run = workspace.train(&name, &["val_set_size=4", "report_to=mlflow", &store, eval_steps]);
        let id = run.json("trackers.json")["run_id"].as_str().unwrap().to_owned();
        let metric = workspace.path(&format!("mlruns-{times}/0/{id}/metrics/eval/loss"));
        let text = fs::read_to_string(metric).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        assert_eq!(lines.len(), times, "{eval_steps}");
        let last = lines.last().unwrap();
        assert_eq!(last[2], "8");
        // Numbers may come back in another last bit.
        let (told, loss) = (last[1].parse::<f64>().unwrap(), run.summary.val_loss.unwrap());
        assert!((told - loss).abs() < 1e-12, "{told} {loss}");
    }
}
