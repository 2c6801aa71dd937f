//! What the rules decide on recorded runs of the quickstart's model (`fixtures/make_recorded.py` says how they were made).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use grades::{AutoTau, Config, Measurement, Replay, StopReason, TraceStep, UnitGain, UnitId, replay};
use serde::Deserialize;

#[derive(Deserialize)]
struct Head {
    planned_steps: usize,
    warmup_steps: usize,
    epoch_steps: usize,
    units: Vec<UnitId>,
    /// Of each matrix.
    elements: Vec<u64>,
    /// What the run decided, or for it the script that cut it, by the rule written once more.
    frozen_at: BTreeMap<UnitId, usize>,
    stop: Option<(usize, StopReason)>,
}

#[derive(Deserialize)]
struct Line {
    step: usize,
    tokens: u64,
    flops: u64,
    gradient: Vec<Option<f64>>,
    change: Vec<Option<f64>>,
    gain: Vec<Option<f64>>,
    other_gain: f64,
}

struct Recorded {
    head: Head,
    trace: Vec<TraceStep>,
}

fn read(name: &str) -> Recorded {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/recorded").join(name);
    let text = fs::read_to_string(path.with_extension("jsonl")).unwrap();
    let mut lines = text.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut before = vec![None; head.units.len()];
    let mut trace = Vec::new();
    for line in lines {
        let line: Line = serde_json::from_str(line).unwrap();
        let measured = |i: usize| {
            let (gradient, change) = (Some(line.gradient[i]?), line.change[i]);
            let previous = change.and(before[i]);
            Some((head.units[i], vec![Measurement { gradient, previous, change, weight_change: None }]))
        };
        let gain = |i: usize| {
            Some(UnitGain {
                unit: head.units[i],
                gain: line.gain[i]?,
                saves: 2 * line.tokens * head.elements[i],
                bytes: 0,
            })
        };
        let all = 0..head.units.len();
        trace.push(TraceStep {
            step: line.step,
            loss: None,
            measurements: all.clone().filter_map(measured).collect(),
            gains: all.filter_map(gain).collect(),
            other_gain: line.other_gain,
            flops: line.flops,
        });
        before = line.gradient;
    }
    Recorded { head, trace }
}

impl Recorded {
    fn decide(&self, options: AutoTau) -> Replay {
        let Head { planned_steps, warmup_steps, epoch_steps, units, .. } = &self.head;
        let auto = AutoTau { warmup_steps: Some(*warmup_steps), epoch_steps: Some(*epoch_steps), ..options };
        replay(Config { auto, ..Config::default() }, units, *planned_steps, &self.trace).unwrap()
    }
}

#[test]
fn a_replay_decides_as_the_run_did_or_the_script_for_it() {
    for name in ["noisy", "few", "fresh"] {
        let run = read(name);
        let found = run.decide(AutoTau::default());
        assert_eq!(found.stop, run.head.stop, "{name}");
        assert_eq!(found.frozen_at, run.head.frozen_at, "{name}");
    }
}

/// Which rule ended it: without the others, at its own step or not at all.
#[test]
fn nothing_gained_ends_the_noisy_run_and_stalled_comes_later() {
    let run = read("noisy");
    let at = |options| run.decide(options).stop.map(|(step, _)| step);
    let stop = run.head.stop.map(|(step, _)| step);
    assert_eq!(at(AutoTau { stalled: 0.0, ..AutoTau::default() }), stop);
    assert_eq!(at(AutoTau { gain: 0.0, ..AutoTau::default() }), None);
    // Gains fall so fast that the share hardly matters: half of it, or twice as much, within a few steps.
    assert!(at(AutoTau { gain: 0.4, ..AutoTau::default() }).is_some_and(|at| Some(at) <= stop));
}
