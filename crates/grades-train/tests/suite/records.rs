//! The logs of runs that are compared.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// What a clock or the system says of a step.
pub(crate) const CLOCKED: [&str; 6] =
    ["seconds", "step_seconds", "monitor_seconds", "data_seconds", "resident_bytes", "peak_bytes"];

/// Takes out what a clock or the system says.
pub(crate) fn without_clocks(lines: &mut [Value]) {
    for line in lines {
        for key in CLOCKED {
            line.as_object_mut().unwrap().remove(key);
        }
    }
}

/// All logs of a run without what a clock, the system, or the place of the run says.
pub(crate) fn logs(run: &Path) -> Vec<Value> {
    let text =
        ["metrics.jsonl", "signals.jsonl", "events.jsonl"].map(|name| fs::read_to_string(run.join(name)).unwrap());
    let lines = text.iter().flat_map(|log| log.lines());
    let mut lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    without_clocks(&mut lines);
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("path");
    }
    lines
}
