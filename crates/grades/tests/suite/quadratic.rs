//! The signals and rules on a noisy quadratic, of which everything is known in closed form.
//!
//! L(w) = ½ Σ λᵢ wᵢ², gradients ∇W_t = λ w_{t−1} + σ ε_t with independent standard normal ε, and w_t = w_{t−1} − η ∇W_t. With
//! r = 1 − ηλ,
//!
//! E w_t² = r²ᵗ w₀² + η²σ² (1 − r²ᵗ) / (1 − r²),    E w_t w_{t−1} = r E w²_{t−1},
//!
//! so that the loss, the gain and the agreement of every step are known, and with them the best step to stop at.

use grades::{
    AutoTau, Config, FreezeBy, Measurement, Monitor, Norm, Role, StepGains, StopReason, Tower, UnitGain, UnitId,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const UNITS: [UnitId; 2] = [
    UnitId { tower: Tower::Language, layer: 0, role: Role::Q },
    UnitId { tower: Tower::Language, layer: 0, role: Role::Up },
];

/// One direction of the quadratic.
#[derive(Clone, Copy)]
struct Direction {
    curvature: f64,
    start: f64,
    /// Where the training data have their optimum; that of all data is 0.
    pulled_to: f64,
}

#[derive(Clone)]
struct Quadratic {
    directions: Vec<Direction>,
    noise: f64,
    rate: f64,
}

impl Quadratic {
    fn of(curvatures: &[f64], start: f64, noise: f64, rate: f64) -> Self {
        let direction = |&curvature| Direction { curvature, start, pulled_to: 0.0 };
        Self { directions: curvatures.iter().map(direction).collect(), noise, rate }
    }

    /// E (w_t − x)² of a direction, x being what it is pulled to.
    fn square(&self, of: Direction, t: usize) -> f64 {
        let keep = (1.0 - self.rate * of.curvature).powi(2);
        let mean = keep.powi(t as i32);
        mean * (of.start - of.pulled_to).powi(2) + (self.rate * self.noise).powi(2) * (1.0 - mean) / (1.0 - keep)
    }

    /// The expected training loss after step t, without that of its optimum.
    fn loss(&self, t: usize) -> f64 {
        self.directions.iter().map(|&of| of.curvature * self.square(of, t) / 2.0).sum()
    }

    /// The expected loss on all data after step t.
    fn true_loss(&self, t: usize) -> f64 {
        let of = |of: Direction| {
            let mean = (1.0 - self.rate * of.curvature).powi(t as i32) * (of.start - of.pulled_to);
            let variance = self.square(of, t) - mean * mean;
            of.curvature * ((mean + of.pulled_to).powi(2) + variance) / 2.0
        };
        self.directions.iter().map(|&direction| of(direction)).sum()
    }

    /// The expected gain that step t ≥ 2 finds of the update before.
    fn gain(&self, t: usize) -> f64 {
        let of = |of: Direction| {
            let keep = 1.0 - self.rate * of.curvature;
            -of.curvature * (self.square(of, t - 1) - keep * self.square(of, t - 2))
        };
        self.directions.iter().map(|&direction| of(direction)).sum()
    }

    /// ½ E ΔᵀΛΔ of the update that step t ≥ 2 measures, Δ = −η ∇W_{t−1}.
    fn bend(&self, t: usize) -> f64 {
        let of = |of: Direction| {
            let gradient = of.curvature.powi(2) * self.square(of, t - 2) + self.noise.powi(2);
            of.curvature * self.rate.powi(2) * gradient / 2.0
        };
        self.directions.iter().map(|&direction| of(direction)).sum()
    }

    /// A run: calls `seen` at each step with the gradient, that of the step before and each direction's gain, until it says
    /// that the run is over; the step.
    fn run(&self, seed: u64, steps: usize, mut seen: impl FnMut(usize, &[f64], &[f64], &[f64]) -> bool) -> usize {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut weights: Vec<f64> = self.directions.iter().map(|of| of.start).collect();
        let mut before = vec![0.0; weights.len()];
        for t in 1..=steps {
            let gradient: Vec<f64> = std::iter::zip(&self.directions, &weights)
                .map(|(of, w)| of.curvature * (w - of.pulled_to) + self.noise * normal(&mut random))
                .collect();
            // −∇W_t · (−η ∇W_{t−1})
            let gains: Vec<f64> =
                std::iter::zip(&gradient, &before).map(|(now, then)| self.rate * now * then).collect();
            if seen(t, &gradient, &before, &gains) {
                return t;
            }
            std::iter::zip(&mut weights, &gradient).for_each(|(w, g)| *w -= self.rate * g);
            before = gradient;
        }
        steps
    }
}

fn normal(random: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Mean and standard error.
fn mean(of: &[f64]) -> (f64, f64) {
    let mean = of.iter().sum::<f64>() / of.len() as f64;
    let variance = of.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (of.len() - 1) as f64;
    (mean, (variance / of.len() as f64).sqrt())
}

#[test]
fn gains_add_up_to_the_fall_of_the_loss_but_for_the_bend_of_a_step() {
    let quadratic = Quadratic::of(&[0.05, 0.2, 0.8, 1.6], 1.0, 0.3, 0.25);
    const STEPS: usize = 40;
    // In expectation, exactly: the fall along a step is its slope at the end plus half the bend.
    for t in 2..=STEPS {
        let fall = quadratic.loss(t - 2) - quadratic.loss(t - 1);
        assert!((quadratic.gain(t) + quadratic.bend(t) - fall).abs() < 1e-12);
    }
    let expected: f64 = (2..=STEPS).map(|t| quadratic.gain(t)).sum();
    let fall = quadratic.loss(0) - quadratic.loss(STEPS - 1);
    let sums: Vec<f64> = (0..2000)
        .map(|seed| {
            let mut sum = 0.0;
            quadratic.run(seed, STEPS, |t, _, _, gains| {
                let of = |unit, gain| UnitGain { unit, gain, saves: 1, bytes: 0 };
                let units = [of(UNITS[0], gains[0] + gains[1]), of(UNITS[1], gains[2])];
                let step = StepGains { units: &units, others: gains[3], flops: 9, bytes: 0 };
                sum += if t > 1 { step.total() } else { 0.0 };
                false
            });
            sum
        })
        .collect();
    let (found, error) = mean(&sums);
    assert!((found - expected).abs() < 4.0 * error, "{found} ± {error}, not {expected}");
    // A dropped term or factor would show.
    assert!(40.0 * error < expected && (fall - expected) > 10.0 * error, "± {error}, fall {fall}, gain {expected}");
}

#[test]
fn agreement_is_the_share_of_the_gradient_that_is_signal_and_has_its_floor_below_0_by_half_of_rate_times_curvature() {
    const WIDTH: usize = 4000;
    let norms = |now: &[f64], before: &[f64]| {
        let floats = |of: &[f64]| of.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let (now, before) = (floats(now), floats(before));
        Measurement::of_gradient(Norm::Frobenius, [40, WIDTH / 40], &now, Some(&before)).unwrap()
    };
    let agreement = |m: Measurement| {
        let (now, before, change) = (m.gradient.unwrap(), m.previous.unwrap(), m.change.unwrap());
        (now * now + before * before - change * change) / (2.0 * now * before)
    };
    let config = Config { auto: AutoTau { window: Some(20), ..AutoTau::default() }, ..Config::default() };
    // Weights that stay where they are: ‖g‖² / (‖g‖² + ‖ε‖²), here 0.2. Weights that have settled: −ηλ/2, here −0.3.
    for (rate, start, expected) in [(0.0, 0.5, 0.2), (0.6, 0.0, -0.3)] {
        let quadratic = Quadratic::of(&[1.0; WIDTH], start, 1.0, rate);
        let mut monitor = Monitor::new(config.clone(), &UNITS[..1], 200).unwrap();
        let mut agreements = Vec::new();
        quadratic.run(5, 60, |t, now, before, _| {
            // The variance settles within a few steps.
            if t > 10 {
                let measured = norms(now, before);
                agreements.push(agreement(measured));
                monitor.observe(t, &[(UNITS[0], vec![measured])]);
            }
            false
        });
        let (found, error) = mean(&agreements);
        assert!((found - expected).abs() < 4.0 * error && error < 0.005, "{found} ± {error}, not {expected}");
        // Half a window at the floor, once the grace period of a window is over.
        assert_eq!(monitor.frozen_at(UNITS[0]), (expected < 0.0).then_some(21), "{expected}");
    }
}

/// The step at which *nothing gained* ends a run of the quadratic as one unit, whose agreement says nothing.
fn ends(quadratic: &Quadratic, seed: u64, steps: usize) -> usize {
    let auto = AutoTau { epoch_steps: Some(1), freeze: FreezeBy::None, ..AutoTau::default() };
    let mut monitor = Monitor::new(Config { auto, ..Config::default() }, &UNITS[..1], steps).unwrap();
    let agreeing = Measurement { gradient: Some(1.0), previous: Some(1.0), change: Some(1.0), weight_change: None };
    quadratic.run(seed, steps, |t, _, _, gains| {
        let decision = monitor.observe(t, &[(UNITS[0], vec![agreeing])]);
        assert!(decision.stop.is_none_or(|reason| reason == StopReason::AllFrozen));
        let units = [UnitGain { unit: UNITS[0], gain: gains.iter().sum(), saves: 1, bytes: 0 }];
        if t > 1 {
            monitor.observe_gains(t, &StepGains { units: &units, others: 0.0, flops: 3, bytes: 0 });
        }
        decision.stop.is_some()
    })
}

/// Curvatures that fall like 1/i, as those of trained networks do.
fn spectrum() -> Vec<f64> {
    (1..=200).map(|i| 1.0 / f64::from(i)).collect()
}

#[test]
fn nothing_gained_ends_where_the_next_doubling_would_buy_a_fifth_of_what_was_bought() {
    let quadratic = Quadratic::of(&spectrum(), 1.0, 0.02, 0.05);
    let mut bought = 0.0;
    let expected = (2..2000).find(|&t| {
        bought += quadratic.gain(t);
        t as f64 * quadratic.gain(t) < 0.2 * bought
    });
    let expected = expected.unwrap();
    assert!(expected > 100, "{expected}");
    // Gains are noisy, and their mean over 25 and as many steps in a row come late: within a factor of two.
    for seed in 0..20 {
        let end = ends(&quadratic, seed, 2000);
        assert!(2 * end > expected && end < 2 * expected, "seed {seed}: {end}, not about {expected}");
    }
}

#[test]
fn nothing_gained_ends_a_run_over_few_samples_near_its_best() {
    // n samples pull the optimum by σ / √(nλ) in each direction: the smaller its curvature, the further. Without an end the
    // loss on all data rises again, by a fifth of what there was to gain.
    let mut quadratic = Quadratic::of(&spectrum(), 1.0, 0.1, 0.5);
    for (i, of) in quadratic.directions.iter_mut().enumerate() {
        of.pulled_to = if i % 2 == 0 { 1.0 } else { -1.0 } * 0.1 / of.curvature.sqrt();
    }
    let steps = 4000;
    let (best_at, best) = (0..=steps).map(|t| (t, quadratic.true_loss(t))).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let (start, end) = (quadratic.true_loss(0), quadratic.true_loss(steps));
    assert!(end - best > 0.2 * (start - best), "{start} at the start, {best} at {best_at}, {end} at the end");
    for seed in 0..20 {
        let at = ends(&quadratic, seed, steps);
        let lost = (quadratic.true_loss(at) - best) / (start - best);
        assert!(lost < 0.1, "seed {seed}: at {at}, best at {best_at}: {lost} of what there was to gain");
    }
}

#[test]
fn what_has_settled_freezes_by_its_gain_and_what_has_not_does_not() {
    // The first half is at its optimum, the second has far to go; `saves` of a step of 3 are what a weight gradient takes.
    let mut quadratic = Quadratic::of(&[vec![0.5; 50], vec![0.02; 50]].concat(), 1.0, 0.02, 0.5);
    quadratic.directions[..50].iter_mut().for_each(|of| of.start = 0.0);
    let auto = AutoTau { freeze: FreezeBy::Gain, ..AutoTau::default() };
    for (seed, saves) in [(1, 50), (2, 50), (3, 10)] {
        let mut monitor = Monitor::new(Config { auto: auto.clone(), ..Config::default() }, &UNITS, 120).unwrap();
        let agreeing = Measurement { gradient: Some(1.0), previous: Some(1.0), change: Some(1.0), weight_change: None };
        quadratic.run(seed, 100, |t, _, _, gains| {
            monitor.observe(t, &UNITS.map(|unit| (unit, vec![agreeing])));
            let halves = [&gains[..50], &gains[50..]];
            let units = [0, 1].map(|i| UnitGain { unit: UNITS[i], gain: halves[i].iter().sum(), saves, bytes: 0 });
            if t > 1 {
                monitor.observe_gains(t, &StepGains { units: &units, others: 0.0, flops: 300, bytes: 0 });
            }
            false
        });
        assert!(monitor.frozen_at(UNITS[0]).is_some_and(|at| at < 60), "{saves}: {:?}", monitor.frozen_at(UNITS[0]));
        assert_eq!(monitor.frozen_at(UNITS[1]), None, "{saves}");
    }
}
