//! What a method's own checks cost, counted by hand.

use std::fs;

use serde_json::Value;

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
        let run = workspace.train(&name, &["val_set_size=4", "report_to=wandb", eval_steps]);
        let text = fs::read_to_string(run.path.join("wandb/wandb-history.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let losses: Vec<_> = lines.iter().filter(|line| !line["eval/loss"].is_null()).collect();
        assert_eq!(losses.len(), times, "{eval_steps}");
        let last = losses.last().unwrap();
        assert_eq!(last["_step"], 8);
        // JSON's numbers may come back in another last bit.
        let (told, loss) = (last["eval/loss"].as_f64().unwrap(), run.summary.val_loss.unwrap());
        assert!((told - loss).abs() < 1e-12, "{told} {loss}");
    }
}
