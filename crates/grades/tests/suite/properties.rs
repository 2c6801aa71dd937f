//! What must hold for any input.

use std::collections::BTreeSet;

use grades::{AutoTau, Companions, Config, Measurement, Monitor, Norm, Role, Signal, Tau, UnitId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const STEPS: usize = 24;

fn units() -> Vec<UnitId> {
    (0..2).flat_map(|layer| [Role::Q, Role::Down].map(|role| UnitId::language(layer, role))).collect()
}

/// A value as a broken machine might give it.
fn value() -> impl Strategy<Value = Option<f64>> {
    let broken = prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-1.0)];
    option::weighted(0.9, prop_oneof![9 => 0.0..2.0_f64, 1 => broken])
}

fn measurement() -> impl Strategy<Value = Measurement> {
    (value(), value(), value(), value()).prop_map(|(gradient, previous, change, weight_change)| Measurement {
        gradient,
        previous,
        change,
        weight_change,
    })
}

/// For each step and unit the measurements of its tensors: none, one or two.
fn trace() -> impl Strategy<Value = Vec<Vec<Vec<Measurement>>>> {
    vec(vec(vec(measurement(), 0..=2), 4), STEPS)
}

fn config() -> impl Strategy<Value = Config> {
    let signal = prop::sample::select(Signal::ALL.to_vec());
    let auto = (0..4_usize, 1..6_usize, 0.0..0.9_f64);
    (signal, any::<bool>(), 0.0..1.0_f64, 0.05..0.95_f64, 1..4_usize, 1..4_usize, 0.3..1.0_f64, auto).prop_map(
        |(signal, is_auto, alpha, tau, patience, interval, max_frozen_share, (warmup_steps, window, stalled))| Config {
            tau: if is_auto { Tau::Auto } else { Tau::Number(tau) },
            signal: (!is_auto).then_some(signal),
            alpha: Some(alpha * 0.6),
            patience,
            interval,
            max_frozen_share,
            companions: Companions::Follow,
            auto: AutoTau {
                warmup_steps: Some(warmup_steps),
                epoch_steps: Some(6),
                window: Some(window),
                stalled,
                ..AutoTau::default()
            },
            ..Config::default()
        },
    )
}

fn measured(step: &[Vec<Measurement>]) -> Vec<(UnitId, Vec<Measurement>)> {
    units().into_iter().zip(step.iter().cloned()).collect()
}

proptest! {
    #[test]
    fn theorem_1_every_norm_is_at_most_the_elementwise_l1(
        (shape, values) in (1..7_usize, 1..7_usize)
            .prop_flat_map(|(rows, cols)| (Just([rows, cols]), vec(-1e3..1e3_f32, rows * cols)))
    ) {
        let l1 = Norm::L1.of(&values, shape).unwrap();
        for norm in [Norm::Frobenius, Norm::Spectral, Norm::Inf, Norm::One] {
            let other = norm.of(&values, shape).unwrap();
            prop_assert!(other <= l1 * (1.0 + 1e-12), "{norm:?} {other} > {l1}");
        }
        // And the relations between the others that pin the spectral norm down from both sides.
        let [frobenius, spectral, inf, one] =
            [Norm::Frobenius, Norm::Spectral, Norm::Inf, Norm::One].map(|norm| norm.of(&values, shape).unwrap());
        let rank = shape[0].min(shape[1]) as f64;
        prop_assert!(spectral <= frobenius * (1.0 + 1e-12));
        prop_assert!(spectral * (1.0 + 1e-2) >= frobenius / rank.sqrt());
        prop_assert!(spectral <= (inf * one).sqrt() * (1.0 + 1e-12));
    }

    #[test]
    fn the_spectral_norm_of_a_rank_one_matrix_is_the_product_of_the_lengths(
        (u, v) in (vec(-10.0..10.0_f32, 1..9), vec(-10.0..10.0_f32, 1..9))
    ) {
        let outer: Vec<f32> = u.iter().flat_map(|x| v.iter().map(move |y| x * y)).collect();
        let length = |a: &[f32]| a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let expected = length(&u) * length(&v);
        let spectral = Norm::Spectral.of(&outer, [u.len(), v.len()]).unwrap();
        prop_assert!((spectral - expected).abs() <= 1e-5 * expected, "{spectral} instead of {expected}");
    }

    #[test]
    fn relative_change_lies_between_0_and_1(
        pairs in vec((vec(-1e3..1e3_f32, 6), vec(-1e3..1e3_f32, 6)), 1..3)
    ) {
        for norm in [Norm::L1, Norm::Frobenius, Norm::Spectral, Norm::Inf, Norm::One] {
            let parts: Vec<_> =
                pairs.iter().map(|(a, b)| Measurement::of_gradient(norm, [2, 3], a, Some(b)).unwrap()).collect();
            if let Some(rho) = Signal::RelativeGradientChange.value(&parts) {
                // The spectral norm is known to its tolerance only.
                prop_assert!((0.0..=1.0 + 1e-2).contains(&rho), "{norm:?} {rho}");
            }
        }
    }

    #[test]
    fn frozen_units_stay_frozen_and_none_freezes_in_the_grace_period(config in config(), trace in trace()) {
        let mut monitor = Monitor::new(config, &units(), STEPS).unwrap();
        let mut frozen = BTreeSet::new();
        let mut companions = BTreeSet::new();
        for (i, step) in trace.iter().enumerate() {
            let decision = monitor.observe(i + 1, &measured(step));
            let now = monitor.frozen();
            prop_assert!(now.is_superset(&frozen));
            prop_assert_eq!(decision.freeze, now.difference(&frozen).copied().collect::<Vec<_>>());
            prop_assert!(now.is_empty() || i + 1 > monitor.grace());
            let with = monitor.frozen_companions();
            prop_assert_eq!(decision.freeze_companions, with.difference(&companions).copied().collect::<Vec<_>>());
            (frozen, companions) = (now, with);
        }
    }

    #[test]
    fn a_resumed_run_decides_as_the_uninterrupted_one(config in config(), trace in trace(), cut in 0..=STEPS) {
        let mut whole = Monitor::new(config.clone(), &units(), STEPS).unwrap();
        let mut first = whole.clone();
        let observe = |monitor: &mut Monitor, i: usize, step: &_| {
            // A loss that falls with every epoch of six steps.
            monitor.observe_loss(i + 1, 3.0 / (1 + i / 6) as f64 + 0.01 * (i % 3) as f64);
            monitor.observe(i + 1, &measured(step))
        };
        let expected: Vec<_> = trace.iter().enumerate().map(|(i, step)| observe(&mut whole, i, step)).collect();
        for (i, step) in trace[..cut].iter().enumerate() {
            observe(&mut first, i, step);
        }
        let json = serde_json::to_string(&first.state()).unwrap();
        let mut second = Monitor::new(config, &units(), STEPS).unwrap();
        second.restore(serde_json::from_str(&json).unwrap()).unwrap();
        // Averages come back to the last bit, which their text shows.
        let memory = |monitor: &Monitor| format!("{:?}", monitor.state()).split("events:").next().map(str::to_owned);
        prop_assert_eq!(memory(&second), memory(&first));
        for (i, step) in trace.iter().enumerate().skip(cut) {
            prop_assert_eq!(second.wants(i + 1), first.wants(i + 1));
            prop_assert_eq!(&observe(&mut second, i, step), &expected[i]);
            observe(&mut first, i, step);
        }
        prop_assert_eq!(second.frozen(), whole.frozen());
    }

    #[test]
    fn broken_or_missing_measurements_freeze_nothing(
        config in config(), bad in prop_oneof![Just(None), Just(Some(f64::NAN)), Just(Some(f64::INFINITY))]
    ) {
        let mut monitor = Monitor::new(config, &units(), STEPS).unwrap();
        let broken = Measurement { gradient: bad, previous: bad, change: bad, weight_change: bad };
        for step in 1..=STEPS {
            monitor.observe(step, &units().into_iter().map(|unit| (unit, vec![broken])).collect::<Vec<_>>());
        }
        prop_assert!(monitor.frozen().is_empty());
    }

    #[test]
    fn without_grace_the_first_step_freezes_nothing(mut config in config(), gradient in 2.0..9.0_f64) {
        // τ is below 1 and the gradient is not: only a first change of 0 could freeze it.
        config.alpha = Some(0.0);
        let mut monitor = Monitor::new(config, &units(), STEPS).unwrap();
        let first = Measurement { gradient: Some(gradient), ..Measurement::default() };
        monitor.observe(1, &units().into_iter().map(|unit| (unit, vec![first])).collect::<Vec<_>>());
        prop_assert!(monitor.frozen().is_empty());
    }

    #[test]
    fn unit_names_round_trip_and_any_text_is_safe(layer in any::<usize>(), text in ".*") {
        let unit = UnitId::language(layer, Role::GateUp);
        prop_assert_eq!(unit.to_string().parse::<UnitId>(), Ok(unit));
        if let Ok(parsed) = text.parse::<UnitId>() {
            prop_assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn any_tau_text_is_safe(text in ".*") {
        let _ = serde_json::from_value::<Tau>(serde_json::Value::String(text.clone()));
        let _ = serde_json::from_value::<Tau>(serde_json::json!({ text: 1.0 }));
    }
}
