//! What freezing does to weights, optimizer state and the run's length, and what is measured for it.

use std::collections::BTreeMap;

use grades::StopReason;
use serde_json::Value;

use crate::runs::{ALL, LAYER, Q, Run, Workspace, weights};

const FREEZE_Q_AT_3: &str = "early_stopping={method: grades, alpha: 0.25, tau: {q: 1.0e9, default: 1.0e-9}}";

fn is_q(name: &str) -> bool {
    name.contains("q_proj")
}

fn is_unit(name: &str) -> bool {
    name.contains("_proj")
}

fn only(weights: BTreeMap<String, Vec<f32>>, wanted: fn(&str) -> bool) -> BTreeMap<String, Vec<f32>> {
    weights.into_iter().filter(|(name, _)| wanted(name)).collect()
}

#[test]
fn a_frozen_matrix_stays_as_it_is_to_the_bit() {
    let rules: [&[&str]; 3] = [
        &["weight_decay=0.1"],
        &["optimizer=sgd", "learning_rate=0.1", "momentum=0.9", "weight_decay=0.1"],
        &["optimizer=sgd", "learning_rate=0.1", "weight_decay=0.1", "gradient_accumulation_steps=2"],
    ];
    for rule in rules {
        let workspace = Workspace::new();
        let with = |name, option| workspace.train(name, &[rule, &[option][..]].concat());
        // A matrix that freezes at step 3 is not updated at step 3: it has the weights of two steps.
        let (frozen, two, eight) =
            (with("frozen", FREEZE_Q_AT_3), with("two", "max_steps=2"), with("eight", "seed=42"));
        assert_eq!(only(frozen.weights(), is_q), only(two.weights(), is_q), "{rule:?}");
        for (name, end) in frozen.weights() {
            assert_eq!(is_q(&name), end == two.weights()[&name], "{name} with {rule:?}");
            assert_ne!(two.weights()[&name], eight.weights()[&name], "{name} with {rule:?}");
        }
    }
}

#[test]
fn a_bias_freezes_with_its_matrix() {
    let workspace = Workspace::of("qwen2");
    let with = |name, option| workspace.train(name, &["weight_decay=0.1", option]).weights();
    let (frozen, two) = (with("frozen", FREEZE_Q_AT_3), with("two", "max_steps=2"));
    assert_eq!(frozen.keys().filter(|name| name.ends_with("q_proj.bias")).count(), 2);
    for (name, end) in &frozen {
        assert_eq!(is_q(name), *end == two[name], "{name}");
    }
}

#[test]
fn steps_between_measurements_are_those_of_the_optimizer() {
    let workspace = Workspace::new();
    let stop = "early_stopping={method: grades, alpha: 0.125, interval: 2, tau: 1.0e-9}";
    let with = |name, sizes: [&str; 2]| workspace.train(name, &[&[stop][..], &sizes[..]].concat());
    let whole = with("whole", ["micro_batch_size=4", "gradient_accumulation_steps=1"]);
    let split = with("split", ["micro_batch_size=1", "gradient_accumulation_steps=4"]);
    let (whole, split) = (whole.signals(), split.signals());
    let steps = |lines: &[Value]| lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(steps(&whole), steps(&split));
    assert!(whole.len() >= 3 && steps(&whole).windows(2).all(|pair| pair[1] == pair[0] + 2), "{:?}", steps(&whole));
    for (whole, split) in whole.iter().zip(&split) {
        for (unit, value) in whole["signals"].as_object().unwrap() {
            let (whole, split) = (value.as_f64().unwrap(), split["signals"][unit].as_f64().unwrap());
            assert!((split / whole - 1.0).abs() < 1e-3, "{unit}: {split} against {whole}");
        }
    }
}

#[test]
fn freezing_gives_back_optimizer_state_and_kept_gradients() {
    let workspace = Workspace::new();
    let run = workspace.train("run", &[FREEZE_Q_AT_3]);
    // Two moments of f32 a value.
    let (before, after) = ((8 * ALL) as f64, (8 * (ALL - 2 * Q)) as f64);
    assert_eq!(run.metric("/optimizer_bytes"), [before, before, after, after, after, after, after, after]);
    // The gradient of step 2 is the first that a decision needs.
    let (first, rest) = ((4 * 2 * LAYER) as f64, (4 * (2 * LAYER - 2 * Q)) as f64);
    assert_eq!(run.metric("/kept_bytes")[..4], [0.0, first, rest, rest]);
    assert_eq!(run.metric("/frozen_units"), [0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
}

#[test]
fn training_stops_when_all_matrices_are_frozen() {
    let workspace = Workspace::new();
    let run = workspace.train("all", &["early_stopping={method: grades, alpha: 0.25, tau: 1.0e9}"]);
    assert_eq!((run.summary.steps, run.summary.planned_steps), (3, 8));
    assert_eq!((run.summary.stopped_by.as_deref(), run.summary.frozen_units), (Some(StopReason::AllFrozen.name()), 14));
    assert_eq!(run.metrics().len(), 3);
    let two = workspace.train("two", &["max_steps=2"]);
    assert_eq!(only(run.weights(), is_unit), only(two.weights(), is_unit));

    let half = "early_stopping={method: grades, alpha: 0.25, tau: {mlp: 1.0e9, q: 1.0e9, default: 1.0e-9}, \
                max_frozen_share: 0.5}";
    let run = workspace.train("half", &[half]);
    assert_eq!((run.summary.steps, run.summary.frozen_units), (3, 8));
    assert_eq!(run.summary.stopped_by.as_deref(), Some(StopReason::MaxFrozenShare.name()));
}

#[test]
fn a_freeze_in_the_last_step_leaves_the_weights_of_the_step_before() {
    let workspace = Workspace::new();
    let last = workspace.train("last", &["early_stopping={method: grades, alpha: 0.875, tau: 1.0e9}"]);
    assert_eq!((last.summary.steps, last.summary.stopped_by.as_deref()), (8, Some(StopReason::AllFrozen.name())));
    let (seven, eight) = (workspace.train("seven", &["max_steps=7"]), workspace.train("eight", &[]));
    assert_eq!(only(last.weights(), is_unit), only(seven.weights(), is_unit));
    // What is no matrix has its last update.
    let rest = |run: &Run| only(run.weights(), |name| !is_unit(name));
    assert_eq!(rest(&last), rest(&eight));
}

/// The signal of every matrix at the first step, by its name in the checkpoint.
fn first_signals(run: &Run) -> BTreeMap<String, f64> {
    let signals = run.signals();
    assert_eq!(signals[0]["step"], 1);
    let name = |unit: &str| {
        let [_, layer, role] = unit.split('.').collect::<Vec<_>>()[..] else { panic!("{unit}") };
        let block = if ["q", "k", "v", "o"].contains(&role) { "self_attn" } else { "mlp" };
        format!("model.layers.{layer}.{block}.{role}_proj.weight")
    };
    let signals = signals[0]["signals"].as_object().unwrap();
    signals.iter().map(|(unit, value)| (name(unit), value.as_f64().unwrap())).collect()
}

fn l1_of_move(from: &[f32], to: &[f32]) -> f64 {
    from.iter().zip(to).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum()
}

#[test]
fn the_measured_gradient_is_the_accumulated_mean_before_clipping() {
    let workspace = Workspace::new();
    let options = [
        "max_steps=1",
        "micro_batch_size=2",
        "gradient_accumulation_steps=3",
        "optimizer=sgd",
        "learning_rate=1.0",
        "max_grad_norm=0",
        "early_stopping={method: grades, signal: gradient, tau: 1.0e-9, alpha: 0}",
    ];
    let run = workspace.train("run", &options);
    let start = weights(&workspace.path("model"));
    let signals = first_signals(&run);
    assert_eq!(signals.len(), 14);
    for (name, end) in only(run.weights(), is_unit) {
        // Δw = η g with η = 1.
        let moved = l1_of_move(&start[&name], &end);
        assert!((signals[&name] / moved - 1.0).abs() < 1e-4, "{name}: {} against {moved}", signals[&name]);
    }
    let clipped = workspace.train("clipped", &[&options[..], &["max_grad_norm=0.01"][..]].concat());
    assert_eq!(clipped.signals(), run.signals());
}

#[test]
fn the_weight_change_is_that_of_the_update() {
    let workspace = Workspace::new();
    let stop = "early_stopping={method: grades, signal: weight_change, tau: 1.0e-9, alpha: 0}";
    let run = workspace.train("run", &["max_steps=1", stop]);
    let (start, signals) = (weights(&workspace.path("model")), first_signals(&run));
    assert_eq!(signals.len(), 14);
    for (name, end) in only(run.weights(), is_unit) {
        let moved = l1_of_move(&start[&name], &end);
        assert!((signals[&name] / moved - 1.0).abs() < 1e-9, "{name}: {} against {moved}", signals[&name]);
    }
}

#[test]
fn accumulation_changes_no_decision() {
    let workspace = Workspace::new();
    let stop = |tau: f64| format!("early_stopping={{method: grades, alpha: 0.125, tau: {tau}}}");
    let traced = workspace.train("traced", &["max_steps=10", &stop(1e-9)]);
    let mut signals: Vec<f64> = traced
        .signals()
        .iter()
        .flat_map(|line| {
            line["signals"].as_object().unwrap().values().map(|value| value.as_f64().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    signals.sort_by(f64::total_cmp);
    // A threshold below a fifth of the signals, so that matrices freeze at different steps.
    let fifth = signals.len() / 5;
    let stop = stop((signals[fifth - 1] + signals[fifth]) / 2.0);
    let with = |name, sizes: [&str; 2]| workspace.train(name, &[&["max_steps=10", &stop][..], &sizes[..]].concat());
    let whole = with("whole", ["micro_batch_size=4", "gradient_accumulation_steps=1"]);
    let split = with("split", ["micro_batch_size=1", "gradient_accumulation_steps=4"]);
    let frozen = |run: &Run| -> Vec<_> {
        run.events().iter().map(|event| (event["step"].clone(), event["unit"].clone())).collect()
    };
    let events = frozen(&whole);
    assert_eq!(events, frozen(&split));
    assert!(events.iter().any(|(step, _)| *step != events[0].0), "all froze at once: {events:?}");
}

#[test]
fn a_tied_embedding_freezes_as_input_and_trains_on_as_head() {
    let workspace = Workspace::new();
    let stop = "early_stopping={method: grades, alpha: 0.25, companions: follow, \
                tau: {language.0.*: 1.0e9, default: 1.0e-9}}";
    let (run, two) = (workspace.train("run", &[stop]), workspace.train("two", &["max_steps=2"]));
    let (end, then) = (run.weights(), two.weights());
    for (name, end) in &end {
        assert_eq!(name.contains("layers.0."), *end == then[name], "{name}");
    }
    let norms = 2 * 32;
    assert_eq!(run.metric("/optimizer_bytes")[7], (8 * (ALL - LAYER - norms)) as f64);
}
