//! `tau: auto` on traces with the course that was measured on a real model, and on cases by hand.

use grades::{
    AutoTau, Config, FreezeBy, Measurement, Monitor, Norm, Role, Signal, StepGains, StopReason, TraceStep, UnitId,
    replay,
};

const STEPS: usize = 120;

fn units() -> Vec<UnitId> {
    (0..15)
        .flat_map(|layer| [Role::Q, Role::V, Role::Up, Role::Down].map(|role| UnitId::language(layer, role)))
        .collect()
}

/// Repeatable noise in [−1, 1], about Gaussian, of variance 1/9.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        let mut total = 0.0;
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            total += (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        }
        total / 3.0
    }
}

/// A trace of ρ through the points (step, mean), with the spread that was measured in one run of 210 matrices: all move
/// together with the batch (standard deviation 0.012), each by itself (0.025), and roles lie apart (v low, the MLP high).
fn trace(points: &[(f64, f64)], seed: u64) -> Vec<TraceStep> {
    let mut noise = noise(seed);
    let mean = |step: f64| {
        let after = points.iter().position(|(t, _)| *t >= step).unwrap_or(points.len() - 1);
        let ((t0, r0), (t1, r1)) = (points[after.saturating_sub(1)], points[after]);
        if t1 > t0 { r0 + (r1 - r0) * ((step - t0) / (t1 - t0)).clamp(0.0, 1.0) } else { r1 }
    };
    (2..=STEPS)
        .map(|step| {
            let common = mean(step as f64) + 0.035 * noise();
            let values = units().into_iter().map(|unit| {
                let offset = match unit.role {
                    Role::V => -0.02,
                    Role::Q => 0.0,
                    _ => 0.01,
                };
                (unit, (common + offset + 0.075 * noise()).clamp(0.0, 1.0))
            });
            TraceStep::of_signals(step, Signal::RelativeGradientChange, values.collect::<Vec<_>>())
        })
        .collect()
}

fn auto(epoch_steps: Option<usize>) -> Config {
    Config {
        // The recorded courses are of this norm.
        norm: Some(Norm::L1),
        auto: AutoTau { warmup_steps: Some(6), epoch_steps, ..AutoTau::default() },
        ..Config::default()
    }
}

/// The share of units frozen by a step.
fn frozen_by(config: &Config, trace: &[TraceStep], step: usize) -> f64 {
    let replayed = replay(config.clone(), &units(), STEPS, trace).unwrap();
    replayed.frozen_at.values().filter(|at| **at <= step).count() as f64 / units().len() as f64
}

#[test]
fn a_memorising_run_stops_soon_after_the_best_validation_loss() {
    // 160 rows seen six times: the validation loss was best at step 20 and within 1 % of that until about step 45.
    let course = [
        (1.0, 0.67),
        (6.0, 0.69),
        (15.0, 0.715),
        (20.0, 0.72),
        (30.0, 0.705),
        (50.0, 0.70),
        (75.0, 0.702),
        (115.0, 0.716),
    ];
    for seed in 1..20 {
        let stop = replay(auto(Some(20)), &units(), STEPS, &trace(&course, seed)).unwrap().stop;
        let (step, reason) = stop.expect("it stops by itself");
        assert!((20..=45).contains(&step) && reason == StopReason::AllFrozen, "seed {seed}: {step}");
    }
}

#[test]
fn a_memorising_lora_run_stops_soon_after_the_best_validation_loss() {
    // Best at step 40, within 1 % of that between about 27 and 65. Cosines of the gradients of B: 0.20, 0.06, 0.09, 0.03,
    // 0.03, 0.05, …, 0.00, each the mean of ten steps.
    let course =
        [(5.0, 0.20), (15.0, 0.06), (25.0, 0.09), (35.0, 0.03), (45.0, 0.03), (55.0, 0.05), (80.0, 0.04), (115.0, 0.0)]
            .map(|(step, cosine): (f64, f64)| (step, ((1.0 - cosine) / 2.0).sqrt()));
    let config = Config { norm: None, ..auto(Some(20)) };
    for seed in 1..20 {
        let stop = replay(config.clone(), &units(), STEPS, &trace(&course, seed)).unwrap().stop;
        let step = stop.map_or(STEPS, |(step, _)| step);
        assert!((27..=65).contains(&step), "seed {seed}: {step}");
    }
}

#[test]
fn a_run_over_fresh_data_is_not_cut_short() {
    // One epoch: the validation loss came within 1 % of its end at step 60 and fell to the last.
    let course = [(6.0, 0.681), (18.0, 0.699), (30.0, 0.714), (54.0, 0.724), (90.0, 0.719), (115.0, 0.721)];
    for seed in 1..20 {
        let trace = trace(&course, seed);
        assert!(frozen_by(&auto(Some(STEPS)), &trace, 40) < 0.25, "seed {seed}");
        let stop = replay(auto(Some(STEPS)), &units(), STEPS, &trace).unwrap().stop;
        assert!(stop.is_none_or(|(step, _)| step >= 60), "seed {seed}: {stop:?}");
        // Not knowing the epoch is the same as a single one.
        assert_eq!(replay(auto(None), &units(), STEPS, &trace).unwrap().stop, stop);
    }
}

/// One unit whose agreement takes these values at steps 2, 3, …, in the Frobenius norm: cosines.
fn freezes_at(auto: AutoTau, cosines: &[f64]) -> Option<usize> {
    freezes_with_losses_at(auto, cosines, &[])
}

/// The same with the training losses of steps 1, 2, ….
fn freezes_with_losses_at(auto: AutoTau, cosines: &[f64], losses: &[f64]) -> Option<usize> {
    let unit = UnitId::language(0, Role::Q);
    let config = Config { auto, ..Config::default() };
    let mut monitor = Monitor::new(config, &[unit], STEPS).unwrap();
    losses.first().into_iter().for_each(|loss| monitor.observe_loss(1, *loss));
    for (i, cosine) in cosines.iter().enumerate() {
        losses.get(i + 1).into_iter().for_each(|loss| monitor.observe_loss(i + 2, *loss));
        // Gradients of lengths 1 and 2 at this angle.
        let change = (5.0 - 4.0 * cosine).sqrt();
        let measurement =
            Measurement { gradient: Some(2.0), previous: Some(1.0), change: Some(change), weight_change: None };
        monitor.observe(i + 2, &[(unit, vec![measurement])]);
    }
    monitor.frozen_at(unit)
}

#[test]
fn an_exhausted_unit_freezes_by_hand() {
    // Window 2: averages 0.4, then (0.2 + 0.1) / 1.5 = 0.2, then (0.15 − 0.14) / 1.75 > 0 or (0.15 − 0.16) / 1.75 < 0.
    let auto = AutoTau { window: Some(2), ..AutoTau::default() };
    assert_eq!(freezes_at(auto.clone(), &[0.4, 0.1, -0.14, -0.2]), Some(5));
    assert_eq!(freezes_at(auto.clone(), &[0.4, 0.1, -0.16, -0.2]), Some(4));
    // A margin of 0.21 is reached a step earlier.
    assert_eq!(freezes_at(AutoTau { exhausted: 0.21, ..auto.clone() }, &[0.4, 0.1, -0.14]), Some(3));
    // The grace period: warm-up and a window. The averages begin after the warm-up, at the third value.
    let warm = AutoTau { warmup_steps: Some(3), ..auto.clone() };
    assert_eq!(freezes_at(warm.clone(), &[-0.1; 6]), Some(6));
    assert_eq!(freezes_at(warm, &[0.9, 0.9, -0.1, -0.1, -0.1]), Some(6));
    // Window 5: three averages in a row must be at the floor.
    let five = AutoTau { window: Some(5), ..auto };
    assert_eq!(freezes_at(five.clone(), &[0.1, -0.2, 0.9, -0.8, -0.1, -0.1, -0.1, -0.1]), Some(7));
    assert_eq!(freezes_at(five, &[0.1, -0.2, -0.2, -0.2, -0.2, -0.2]), Some(6));
}

#[test]
fn a_stalled_run_freezes_by_hand() {
    // Window 1: the average is the last value. Lowest at step 4, no lower for one measurement at step 5.
    let auto = AutoTau { window: Some(1), epoch_steps: Some(2), stalled: 0.06, ..AutoTau::default() };
    assert_eq!(freezes_at(auto.clone(), &[0.3, 0.1, 0.05, 0.2, 0.3]), Some(5));
    // Never close to the floor: still learning.
    assert_eq!(freezes_at(auto.clone(), &[0.3, 0.1, 0.07, 0.2, 0.3]), None);
    // Still falling, and falling too little to count.
    assert_eq!(freezes_at(auto.clone(), &[0.3, 0.055, 0.04, 0.025, 0.01]), None);
    assert_eq!(freezes_at(auto.clone(), &[0.3, 0.055, 0.04, 0.031, 0.01]), Some(5));
    // Fresh data: what was lowest in the first epoch does not count.
    assert_eq!(freezes_at(AutoTau { epoch_steps: None, ..auto.clone() }, &[0.3, 0.1, 0.05, 0.2, 0.3]), None);
    assert_eq!(freezes_at(AutoTau { epoch_steps: Some(5), ..auto.clone() }, &[0.3, 0.1, 0.05, 0.2, 0.3, 0.4]), None);
    assert_eq!(freezes_at(AutoTau { epoch_steps: Some(3), ..auto.clone() }, &[0.3, 0.1, 0.05, 0.2, 0.3, 0.4]), Some(5));
    // Close to the floor up to the end of the first epoch, step 5: that is over at the first step of the second, unless it falls on.
    let close = AutoTau { epoch_steps: Some(5), ..auto };
    assert_eq!(freezes_at(close.clone(), &[0.3, 0.05, 0.055, 0.05, 0.05]), Some(6));
    assert_eq!(freezes_at(close.clone(), &[0.3, 0.05, 0.055, 0.05, 0.03, 0.05]), Some(7));
    assert_eq!(freezes_at(close, &[0.3, 0.05, 0.055, 0.07, 0.05, 0.05]), Some(7));
}

#[test]
fn a_run_that_does_not_memorise_does_not_stall() {
    // Close to the floor all the time: over with the first epoch of five steps where no loss is known.
    let auto = AutoTau { window: Some(1), epoch_steps: Some(5), stalled: 0.06, ..AutoTau::default() };
    let close = [0.05; 8];
    assert_eq!(freezes_at(auto.clone(), &close), Some(6));
    // Losses of mean 3 and variance 0.04: the first after them must be lower by 2 · 0.2 · √(1/5 + 1) = 0.4382, the mean of the first
    // two by 2 · 0.2 · √(1/5 + 1/2) = 0.3347.
    let stalls = |after: [f64; 4]| {
        freezes_with_losses_at(auto.clone(), &close, &[vec![3.2, 2.8, 3.2, 2.8, 3.0], after.to_vec()].concat())
    };
    assert_eq!(stalls([2.56, 3.0, 3.0, 3.0]), Some(6));
    assert_eq!(stalls([2.57, 2.75, 3.0, 3.0]), Some(7));
    assert_eq!(stalls([2.57, 2.77, 3.0, 3.0]), None);
    // Once known, samples remain so. Agreement that rises before that is progress, and the lowest is looked for anew.
    let rises = [0.05, 0.05, 0.05, 0.05, 0.3, 0.05, 0.05, 0.05];
    let losses = |sixth: f64, seventh: f64| [3.2, 2.8, 3.2, 2.8, 3.0, sixth, seventh, 3.0, 3.0];
    assert_eq!(freezes_with_losses_at(auto.clone(), &rises, &losses(2.0, 3.0)), Some(6));
    assert_eq!(freezes_with_losses_at(auto, &rises, &losses(3.0, 2.0)), Some(8));
}

#[test]
fn gains_that_have_become_small_end_no_run_that_does_not_memorise() {
    let unit = UnitId::language(0, Role::Q);
    let ends_at = |loss: Option<fn(usize) -> f64>| {
        let auto = AutoTau { epoch_steps: Some(30), freeze: FreezeBy::None, ..AutoTau::default() };
        let mut monitor = Monitor::new(Config { auto, ..Config::default() }, &[unit], STEPS).unwrap();
        let agreeing = Measurement { gradient: Some(1.0), previous: Some(1.0), change: Some(1.0), weight_change: None };
        (2..STEPS).find(|&step| {
            loss.into_iter().for_each(|loss| monitor.observe_loss(step, loss(step)));
            let decision = monitor.observe(step, &[(unit, vec![agreeing])]);
            let others = 0.8_f64.powi(step as i32);
            monitor.observe_gains(step, &StepGains { units: &[], others, flops: 3, bytes: 0 });
            decision.stop.is_some()
        })
    };
    // The n-th gain is small from n · 0.8ⁿ⁻²⁵ / 25 < 0.2 on, which is n = 34 at step 35; the 25th of them is that of step 59.
    assert_eq!(ends_at(None), Some(60));
    assert_eq!(ends_at(Some(|_| 2.0)), None);
    assert_eq!(ends_at(Some(|step| if step > 30 { 1.0 } else { 2.0 })), Some(60));
    // Learnt by heart in the second epoch, as the third shows.
    assert_eq!(ends_at(Some(|step| if step > 60 { 1.0 } else { 2.0 })), Some(61));
}

#[test]
fn b_of_an_adapter_pair_is_judged_or_both_together() {
    let unit = UnitId::language(0, Role::Q);
    let part =
        |change| Measurement { gradient: Some(1.0), previous: Some(1.0), change: Some(change), weight_change: None };
    // A points the same way still, B does not.
    let pair = vec![part(1.0), part(1.5)];
    for (parts, frozen) in [("last", true), ("together", false)] {
        let json = format!(r#"{{"auto": {{"window": 1, "parts": "{parts}"}}}}"#);
        let mut monitor = Monitor::new(serde_json::from_str(&json).unwrap(), &[unit], STEPS).unwrap();
        for step in 2..6 {
            monitor.observe(step, &[(unit, pair.clone())]);
        }
        assert_eq!(monitor.is_frozen(unit), frozen, "{parts}");
    }
}

#[test]
fn a_trace_changes_no_decision_of_tau_auto() {
    let unit = UnitId::language(0, Role::Q);
    let freezes_at = |trace| {
        let auto = AutoTau { warmup_steps: Some(4), window: Some(5), ..AutoTau::default() };
        let mut monitor = Monitor::new(Config { auto, trace, ..Config::default() }, &[unit], STEPS).unwrap();
        for step in 2..30 {
            // Gradients of the warm-up agree: averaged with the rest they would put the end off.
            let cosine = if step <= 4 { 0.9 } else { 0.1 - 0.02 * step as f64 };
            let change = Some((2.0_f64 - 2.0 * cosine).sqrt());
            let measurement = Measurement { gradient: Some(1.0), previous: Some(1.0), change, weight_change: None };
            monitor.observe(step, &[(unit, vec![measurement])]);
        }
        monitor.frozen_at(unit)
    };
    assert!(freezes_at(false).is_some());
    assert_eq!(freezes_at(true), freezes_at(false));
}
