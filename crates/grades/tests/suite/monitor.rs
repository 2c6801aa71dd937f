//! Decisions on traces that were worked out by hand.

use std::collections::BTreeSet;

use grades::{
    AutoTau, Companion, Companions, Config, Decision, Event, Measurement, Monitor, Norm, RestoreError, Role, Signal,
    StopReason, Tau, Tower, TraceStep, UnitId, Wants, replay,
};

const Q: UnitId = UnitId { tower: Tower::Language, layer: 0, role: Role::Q };
const UP: UnitId = UnitId { tower: Tower::Language, layer: 0, role: Role::Up };

/// One step's signal values, of the config's signal.
fn observe(monitor: &mut Monitor, step: usize, values: &[(UnitId, f64)]) -> Decision {
    let signal = monitor.config().signal();
    let measured: Vec<_> =
        values.iter().map(|(unit, value)| (*unit, vec![Measurement::of_signal(signal, *value)])).collect();
    monitor.observe(step, &measured)
}

fn monitor(config: Config, units: &[UnitId], steps: usize) -> Monitor {
    Monitor::new(config, units, steps).unwrap()
}

fn paper(alpha: f64) -> Config {
    Config { alpha: Some(alpha), ..Config::paper(1.0) }
}

#[test]
fn units_freeze_below_tau_after_the_grace_period_and_training_stops_with_the_last() {
    let mut m = monitor(paper(0.3), &[Q, UP], 10);
    for step in 1..=3 {
        assert_eq!(observe(&mut m, step, &[(Q, 0.1), (UP, 0.1)]).freeze, []);
    }
    // Equal to τ is not below it.
    let decision = observe(&mut m, 4, &[(Q, 0.9), (UP, 1.0)]);
    assert_eq!((decision.freeze, decision.stop, decision.signals), (vec![Q], None, vec![(Q, 0.9), (UP, 1.0)]));
    assert_eq!(observe(&mut m, 5, &[(Q, 9.0), (UP, 2.0)]).signals, [(UP, 2.0)]);
    let decision = observe(&mut m, 6, &[(UP, 0.5)]);
    assert_eq!((decision.freeze, decision.stop), (vec![UP], Some(StopReason::AllFrozen)));
    assert_eq!((m.frozen_at(Q), m.frozen_at(UP)), (Some(4), Some(6)));
    assert_eq!(m.frozen(), BTreeSet::from([Q, UP]));
    assert_eq!(
        m.events(),
        [
            Event::Freeze { step: 4, unit: Q, signal: Some(0.9) },
            Event::Freeze { step: 6, unit: UP, signal: Some(0.5) },
            Event::Stop { step: 6, reason: StopReason::AllFrozen }
        ]
    );
    assert!(!m.wants(7).measure_gradients && !m.wants(7).keep_gradient);
}

#[test]
fn the_relative_signal_freezes_above_its_threshold() {
    let config = Config {
        signal: Some(Signal::RelativeGradientChange),
        tau: Tau::Number(0.7),
        alpha: Some(0.0),
        ..Config::default()
    };
    let mut m = monitor(config, &[Q, UP], 10);
    assert_eq!(observe(&mut m, 2, &[(Q, 0.69), (UP, 0.71)]).freeze, [UP]);
    // ∇W_0 := 0 would give ρ = 1 at step 1.
    let mut m = monitor(m.config().clone(), &[Q], 10);
    let first = Measurement { gradient: Some(3.0), ..Measurement::default() };
    assert_eq!(m.observe(1, &[(Q, vec![first])]).freeze, []);
}

#[test]
fn without_grace_the_first_step_freezes_nothing_because_it_is_compared_with_zero() {
    let mut m = monitor(paper(0.0), &[Q], 10);
    assert!(m.wants(1).measure_gradients);
    let first = Measurement::of_gradient(Norm::L1, [1, 2], &[3.0, -4.0], None).unwrap();
    let decision = m.observe(1, &[(Q, vec![first])]);
    assert_eq!((decision.freeze, decision.signals), (vec![], vec![(Q, 7.0)]));
    // Only there: later on a missing previous gradient is a missing measurement.
    let decision = m.observe(2, &[(Q, vec![first])]);
    assert_eq!((decision.freeze, decision.signals), (vec![], vec![]));
}

#[test]
fn patience_counts_consecutive_measurements_after_the_grace_period() {
    let mut m = monitor(Config { patience: 3, ..paper(0.2) }, &[Q], 10);
    for (step, value) in [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.1), (5, 1.5), (6, 0.1), (7, 0.1)] {
        assert_eq!(observe(&mut m, step, &[(Q, value)]).freeze, [], "{step}");
    }
    assert_eq!(observe(&mut m, 8, &[(Q, 0.1)]).freeze, [Q]);
}

#[test]
fn missing_and_broken_measurements_start_the_count_again() {
    for broken in [None, Some(f64::NAN), Some(f64::INFINITY), Some(-1.0)] {
        let mut m = monitor(Config { patience: 2, ..paper(0.0) }, &[Q, UP], 10);
        observe(&mut m, 1, &[(Q, 0.1), (UP, 2.0)]);
        let values: Vec<_> = broken.map(|value| (Q, value)).into_iter().chain([(UP, 2.0)]).collect();
        assert_eq!(observe(&mut m, 2, &values).freeze, []);
        assert_eq!(observe(&mut m, 3, &[(Q, 0.1), (UP, 2.0)]).freeze, [], "{broken:?}");
        assert_eq!(observe(&mut m, 4, &[(Q, 0.1), (UP, 2.0)]).freeze, [Q]);
    }
}

#[test]
fn training_stops_at_the_largest_frozen_share() {
    let units: Vec<_> = (0..4).map(|layer| UnitId::language(layer, Role::Q)).collect();
    let mut m = monitor(Config { max_frozen_share: 0.5, ..paper(0.0) }, &units, 10);
    assert_eq!(observe(&mut m, 1, &[(units[2], 0.5)]).stop, None);
    assert_eq!(observe(&mut m, 2, &[(units[0], 0.5)]).stop, Some(StopReason::MaxFrozenShare));
    assert_eq!(m.wants(3), Wants::default());
}

#[test]
fn companions_are_told_to_follow() {
    let units = [Q, UP, UnitId::language(1, Role::Q)];
    let mut m = monitor(Config { companions: Companions::Follow, ..paper(0.0) }, &units, 10);
    assert_eq!(observe(&mut m, 1, &[(Q, 0.5)]).freeze_companions, []);
    let norms = |layer| Companion::Norms { tower: Tower::Language, layer };
    let embedding = Companion::Embedding { tower: Tower::Language };
    assert_eq!(observe(&mut m, 2, &[(UP, 0.5)]).freeze_companions, [norms(0), embedding]);
    assert_eq!(observe(&mut m, 3, &[(units[2], 0.5)]).freeze_companions, [norms(1)]);
    assert_eq!(m.frozen_companions(), BTreeSet::from([norms(0), norms(1), embedding]));
}

/// The steps from 0 on at which a monitor wants to measure, keep gradients, keep weights.
fn wanted(config: Config, steps: usize) -> [Vec<usize>; 3] {
    let m = monitor(config, &[Q], steps);
    let at = |f: fn(Wants) -> bool| (0..=steps).filter(|step| f(m.wants(*step))).collect();
    [at(|w| w.measure_gradients || w.measure_weights), at(|w| w.keep_gradient), at(|w| w.keep_weight)]
}

#[test]
fn nothing_is_measured_or_kept_before_the_first_decision_needs_it() {
    assert_eq!(wanted(paper(0.5), 6), [vec![4, 5, 6], vec![3, 4, 5, 6], vec![]]);
    assert_eq!(wanted(paper(0.0), 3), [vec![1, 2, 3], vec![1, 2, 3], vec![]]);
    let of = |signal, interval| Config { signal: Some(signal), interval, ..paper(0.5) };
    assert_eq!(wanted(of(Signal::Gradient, 1), 6), [vec![4, 5, 6], vec![], vec![]]);
    // Gradients of consecutive steps are compared, also at intervals; weights are compared across the interval.
    assert_eq!(wanted(of(Signal::GradientChange, 3), 12), [vec![7, 10], vec![6, 9, 12], vec![]]);
    assert_eq!(wanted(of(Signal::WeightChange, 3), 12), [vec![7, 10], vec![], vec![4, 7, 10]]);
    assert_eq!(wanted(of(Signal::WeightChange, 1), 4), [vec![3, 4], vec![], vec![2, 3, 4]]);
    assert_eq!(wanted(of(Signal::WeightChange, 9), 12), [vec![7], vec![], vec![0, 7]]);
    let traced = Config { trace: true, ..of(Signal::GradientChange, 3) };
    assert_eq!(wanted(traced, 12), [vec![1, 4, 7, 10], vec![3, 6, 9, 12], vec![]]);
    let auto = Config { auto: AutoTau { warmup_steps: Some(2), ..AutoTau::default() }, ..Config::default() };
    assert_eq!(wanted(auto, 6), [vec![3, 4, 5, 6], vec![2, 3, 4, 5, 6], vec![]]);
}

#[test]
fn a_signal_of_weights_measures_weights_and_every_other_gradients() {
    for signal in Signal::ALL {
        let tau = Tau::Number(0.5);
        let wants = monitor(Config { signal: Some(signal), tau, ..paper(0.0) }, &[Q], 9).wants(5);
        let by_weight = signal == Signal::WeightChange;
        assert_eq!((wants.measure_gradients, wants.measure_weights), (!by_weight, by_weight));
        assert_eq!(wants.after_update(), by_weight);
    }
}

#[test]
fn a_change_of_weights_is_divided_by_the_steps_it_spans() {
    let config = |interval| Config { signal: Some(Signal::WeightChange), interval, ..paper(0.5) };
    let mut m = monitor(config(3), &[Q], 12);
    assert_eq!(observe(&mut m, 7, &[(Q, 6.0)]).signals, [(Q, 2.0)]);
    assert_eq!(observe(&mut m, 10, &[(Q, 2.7)]).freeze, [Q]);
    // The first measurement, at step 7, can reach back to step 0 only.
    let mut m = monitor(config(9), &[Q], 12);
    assert_eq!(observe(&mut m, 7, &[(Q, 14.0)]).signals, [(Q, 2.0)]);
}

#[test]
fn a_trace_and_unasked_measurements_change_no_decision() {
    let plain = Config { patience: 2, interval: 2, ..paper(0.4) };
    let traced = Config { trace: true, ..plain.clone() };
    let mut decisions = Vec::new();
    for config in [plain, traced] {
        let mut m = monitor(config, &[Q], 10);
        let frozen: Vec<_> = (1..=10).map(|step| observe(&mut m, step, &[(Q, 0.5)]).freeze).collect();
        assert_eq!(m.frozen_at(Q), Some(7));
        decisions.push(frozen);
    }
    assert_eq!(decisions[0], decisions[1]);
}

#[test]
fn steps_that_go_back_and_units_that_do_not_exist_change_nothing() {
    let mut m = monitor(Config { patience: 2, ..paper(0.0) }, &[Q], 10);
    observe(&mut m, 3, &[(Q, 0.5)]);
    let before = m.state();
    assert_eq!(observe(&mut m, 3, &[(Q, 0.5)]), Decision { step: 3, ..Decision::default() });
    assert_eq!(observe(&mut m, 2, &[(Q, 0.5)]).freeze, []);
    assert_eq!(m.state(), before);
    assert_eq!(observe(&mut m, 4, &[(Q, 5.0), (UP, 0.1)]).signals, [(Q, 5.0)]);
    assert!(!m.is_frozen(UP));
}

#[test]
fn thresholds_are_reported() {
    let tau = serde_json::from_str(r#"{"default": 1.0, "mlp": 3.0}"#).unwrap();
    let m = monitor(Config { tau, ..Config::paper(1.0) }, &[Q, UP], 10);
    assert_eq!((m.threshold(Q), m.threshold(UP)), (Some(1.0), Some(3.0)));
}

#[test]
fn a_state_of_another_run_is_refused_and_changes_nothing() {
    let state = |config, units: &[UnitId], steps| monitor(config, units, steps).state();
    let mut m = monitor(paper(0.5), &[Q, UP], 10);
    let before = m.state();
    let refused = m.restore(state(Config { patience: 2, ..paper(0.5) }, &[Q, UP], 10)).unwrap_err();
    assert!(refused.to_string().contains("patience=2"), "{refused}");
    assert_eq!(m.restore(state(paper(0.5), &[Q], 10)), Err(RestoreError::Units { unit: UP }));
    let other = [Q, UP, UnitId::language(1, Role::Q)];
    assert_eq!(m.restore(state(paper(0.5), &other, 10)), Err(RestoreError::Units { unit: other[2] }));
    let steps = RestoreError::PlannedSteps { saved: 20, current: 10 };
    assert_eq!(m.restore(state(paper(0.5), &[Q, UP], 20)), Err(steps));
    assert_eq!(m.state(), before);
    assert_eq!(m.restore(before), Ok(()));
}

#[test]
fn a_recording_is_replayed_through_any_config() {
    let trace: Vec<_> = (1..=6)
        .map(|step| {
            TraceStep::of_signals(step, Signal::GradientChange, [(Q, 4.0 / step as f64), (UP, 2.0 / step as f64)])
        })
        .collect();
    // 4/5 and 2/4 are the first below 1 after step 3.
    let result = replay(paper(0.5), &[Q, UP], 6, &trace).unwrap();
    assert_eq!(result.frozen_at.into_iter().collect::<Vec<_>>(), [(Q, 5), (UP, 4)]);
    assert_eq!(result.stop, Some((5, StopReason::AllFrozen)));
    let line = serde_json::to_string(&trace[0]).unwrap();
    assert_eq!(serde_json::from_str::<TraceStep>(&line).unwrap(), trace[0]);
}

#[test]
fn a_frozen_unit_is_tried_again_after_a_window_and_then_after_twice_as_long() {
    let auto = AutoTau { window: Some(3), ..AutoTau::default() };
    let mut m = monitor(Config { unfreeze: true, auto, ..paper(0.0) }, &[Q, UP], 40);
    // UP goes on learning; Q does from step 13 on.
    let mut seen = Vec::new();
    for step in 1..=20 {
        let decision = observe(&mut m, step, &[(Q, if step < 13 { 0.5 } else { 2.0 }), (UP, 2.0)]);
        let of = |units: &[UnitId]| !units.is_empty();
        assert!(decision.freeze.iter().chain(&decision.unfreeze).all(|unit| *unit == Q) && decision.stop.is_none());
        if of(&decision.freeze) || of(&decision.unfreeze) {
            seen.push((step, of(&decision.freeze)));
            assert_eq!(m.is_frozen(Q), of(&decision.freeze));
        }
    }
    // It freezes at step 1, waits for 3 steps, freezes at the next one, waits for 6, and again, for 12: then it is not at its floor any more.
    assert_eq!(seen, [(1, true), (4, false), (5, true), (11, false), (12, true)]);
    assert_eq!(observe(&mut m, 24, &[(UP, 2.0)]).unfreeze, [Q]);
    assert!(observe(&mut m, 25, &[(Q, 2.0), (UP, 2.0)]).freeze.is_empty());
    // Where all are frozen, the end comes first.
    let decision = observe(&mut m, 26, &[(Q, 0.5), (UP, 0.5)]);
    assert_eq!((decision.unfreeze, decision.stop), (Vec::new(), Some(StopReason::AllFrozen)));
}

#[test]
fn norms_train_again_with_the_units_around_them() {
    let auto = AutoTau { window: Some(2), ..AutoTau::default() };
    let next = UnitId::language(1, Role::Q);
    let mut m = monitor(Config { unfreeze: true, auto, companions: Companions::Follow, ..paper(0.0) }, &[Q, next], 40);
    let frozen = observe(&mut m, 1, &[(Q, 0.5), (next, 2.0)]).freeze_companions;
    assert!(frozen.contains(&Companion::Norms { tower: Tower::Language, layer: 0 }), "{frozen:?}");
    assert!(observe(&mut m, 2, &[(next, 2.0)]).unfreeze_companions.is_empty());
    assert_eq!(observe(&mut m, 3, &[(next, 2.0)]).unfreeze_companions, frozen);
}

#[test]
fn a_unit_whose_gradients_agree_again_stays_in_training_and_one_of_noise_does_not() {
    let auto = AutoTau { window: Some(4), warmup_steps: Some(0), ..AutoTau::default() };
    let third = UnitId::language(0, Role::Down);
    let mut m = monitor(Config { unfreeze: true, auto, ..Config::default() }, &[Q, UP, third], 60);
    // Of ρ: 0.72 is noise (agreement −0.04), 0.6 is not (0.28).
    let rho = |unit: UnitId, step: usize| match unit {
        Q => 0.72,
        UP if step < 9 => 0.72,
        _ => 0.6,
    };
    let mut events = Vec::new();
    for step in 2..=40 {
        let values = [Q, UP, third].map(|unit| (unit, rho(unit, step)));
        let decision = observe(&mut m, step, &values);
        events.extend(decision.freeze.iter().map(|unit| (*unit, step, true)));
        events.extend(decision.unfreeze.iter().map(|unit| (*unit, step, false)));
    }
    let of = |which: UnitId| events.iter().filter(|(unit, ..)| *unit == which).map(|e| (e.1, e.2)).collect::<Vec<_>>();
    // Grace of 4; tried again 4 steps later; half a window at the floor is two measurements; then 8 steps, then 16.
    assert_eq!(of(Q), [(5, true), (9, false), (11, true), (19, false), (21, true), (37, false), (39, true)]);
    assert_eq!(of(UP), [(5, true), (9, false)]);
    assert_eq!(of(third), []);
}
