//! The gain of an update, and when there is nothing left of it.
//!
//! The gain of the last update is g = −⟨∇W_t, W_{t−1} − W_{t−2}⟩ over all parameters: how far the update has lowered the loss
//! of the next batch, to first order, in nats. On data that were not seen before it is an unbiased estimate of how far the
//! update has lowered the expected loss, so its sum foretells the validation loss without validating. The moments of AdamW
//! tell what the last update was, so that it costs no copy of weights or gradients.
//!
//! Once samples are learnt by heart (see the module `staircase`), updates also lower the loss by memorising, which makes gains larger
//! than what they are worth. Gains that have become small all the same say that nothing is left but that:
//!
//! t · ḡ_t < share · Σ_{s ≤ t} g_s,
//!
//! for 25 steps in a row, where ḡ is the mean of the last 25 gains: less than a share of the mean gain so far.
//!
//! The gain is a sum over matrices, so that each has its own. Freezing a matrix loses its gain and saves the arithmetic of its
//! weight gradient, for which as much of the whole step could be bought: it pays where
//!
//! ḡ_u < ḡ · (arithmetic saved) / (arithmetic of a step).
//!
//! Gains are noisy. A matrix counts as not worth its arithmetic when the upper end of a one-sided 95 % interval of ḡ_u lies
//! below that.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::exact;
use crate::unit::UnitId;

/// Gains over which ḡ is averaged, and for how many steps in a row it must be small.
///
/// The mean of a run is that of its last gains, each counting the same: gains fall by two or three orders of magnitude in a
/// few steps, and an exponential average would go on telling of the first for long after (so it ended runs some forty steps after
/// that fall, whatever came).
const WINDOW: usize = 25;

/// Gains over which that of one matrix is averaged: each new one counts 1/20.
const OF_ONE: f64 = 20.0;

/// The weight of ten gains in such an average: fewer tell nothing of its error.
const FEWEST: f64 = 8.0;

/// Standard errors from an average to the upper end of its one-sided 95 % interval.
const UPPER: f64 = 1.645;

/// What the update of a step has found of the update before it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepGains<'a> {
    /// The matrices that train, in order.
    pub units: &'a [UnitGain],
    /// The gain of all other parameters, in nats.
    pub others: f64,
    /// The arithmetic of the step, in FLOPs.
    pub flops: u64,
    /// Memory of the gradients, optimizer state and averages of all that trains, in bytes; 0 where nobody counts it.
    pub bytes: u64,
}

/// The gain of one matrix, or of the adapter of one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitGain {
    /// The matrix.
    pub unit: UnitId,
    /// −⟨its gradient, its last change⟩ in nats.
    #[serde(deserialize_with = "exact::number_or_nan")]
    pub gain: f64,
    /// The arithmetic of its weight gradient in the step, which its freezing would save, in FLOPs.
    pub saves: u64,
    /// Memory of its gradient, optimizer state and average, which its freezing would free, in bytes; 0 where nobody counts it.
    #[serde(default)]
    pub bytes: u64,
}

impl StepGains<'_> {
    /// The gain over all parameters.
    pub fn total(&self) -> f64 {
        self.others + self.units.iter().map(|unit| unit.gain).sum::<f64>()
    }
}

/// An average of the last gains, the newest weighing most, unbiased from the first on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GainAverage {
    /// Σ weight · g.
    #[serde(with = "exact")]
    sum: f64,
    /// Σ weight · g².
    #[serde(with = "exact")]
    squares: f64,
    /// Σ weight.
    #[serde(with = "exact")]
    weight: f64,
    /// Σ weight².
    #[serde(with = "exact")]
    square_weight: f64,
}

impl GainAverage {
    pub(crate) fn add(&mut self, gain: f64) {
        let keep = 1.0 - 1.0 / OF_ONE;
        self.sum = keep * self.sum + gain;
        self.squares = keep * self.squares + gain * gain;
        self.weight = keep * self.weight + 1.0;
        self.square_weight = keep * keep * self.square_weight + 1.0;
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.weight
    }

    /// The standard error of the mean, from the spread of the gains themselves; infinite before the second.
    fn error(&self) -> f64 {
        let spread = (self.squares / self.weight - self.mean().powi(2)).max(0.0);
        // The part of the mean's own variance is missing from the spread around it.
        let effective = self.weight * self.weight / self.square_weight;
        if effective > 1.5 { (spread / (effective - 1.0)).sqrt() } else { f64::INFINITY }
    }

    /// Whether the gain is, with some certainty, below `limit`.
    pub(crate) fn is_below(&self, limit: f64) -> bool {
        self.weight >= FEWEST && self.mean() + UPPER * self.error() < limit
    }
}

/// The gains of one run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gains {
    count: u64,
    /// Σ g.
    #[serde(with = "exact")]
    sum: f64,
    /// The last of them, the oldest first.
    last: VecDeque<f64>,
    /// For how many steps in a row the gain has been small, since the data repeat.
    small_for: usize,
}

impl Gains {
    /// Takes in the gain of an update. One that is no number counts as if there had been none, and breaks a row.
    pub(crate) fn add(&mut self, gain: f64, share: f64, repeated: bool) {
        if !gain.is_finite() {
            self.small_for = 0;
            return;
        }
        self.count += 1;
        self.sum += gain;
        self.last.push_back(gain);
        if self.last.len() > WINDOW {
            self.last.pop_front();
        }
        let small = self.last.len() == WINDOW && self.count as f64 * self.mean() < share * self.sum;
        self.small_for = if small && repeated { self.small_for + 1 } else { 0 };
    }

    /// The average of the last gains; 0 before the first.
    pub(crate) fn mean(&self) -> f64 {
        self.last.iter().sum::<f64>() / self.last.len().max(1) as f64
    }

    /// Whether nothing is left.
    pub(crate) fn are_exhausted(&self) -> bool {
        self.small_for >= WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps at which a trace of gains is exhausted; from step `epoch + 1` on the data repeat.
    fn exhausted(gains: impl IntoIterator<Item = f64>, share: f64, epoch: usize) -> Vec<usize> {
        let mut all = Gains::default();
        let steps = gains.into_iter().enumerate().filter_map(|(i, gain)| {
            all.add(gain, share, i + 1 > epoch);
            all.are_exhausted().then_some(i + 1)
        });
        steps.collect()
    }

    #[test]
    fn the_rule_by_hand() {
        // Thirty gains of 1, then none. At step 30 + n the mean so far is 30 / (30 + n), and that of the last 25 is
        // (25 − n) / 25, below a fifth of it from n = 23 on: 0.08 < 0.2 · 0.566, where at 22 0.12 > 0.2 · 0.577. That is step 53,
        // and for the 25th time 77.
        let trace = std::iter::repeat_n(1.0, 30).chain(std::iter::repeat_n(0.0, 90));
        assert_eq!(exhausted(trace, 0.2, 0).first(), Some(&77));
    }

    #[test]
    fn constant_gains_are_never_exhausted_and_nothing_is_in_the_first_epoch() {
        assert_eq!(exhausted(std::iter::repeat_n(0.3, 500), 0.99, 0).len(), 0);
        let falling = || (0..300).map(|i| 0.9_f64.powi(i));
        let first = exhausted(falling(), 0.2, 0)[0];
        assert!(first > 10 && first < 100, "{first}");
        // Where the data repeat later, 25 steps after that.
        assert_eq!(exhausted(falling(), 0.2, 200)[0], 225);
        assert_eq!(exhausted(falling(), 0.2, 300).len(), 0);
        assert_eq!(exhausted(falling(), 0.0, 0).len(), 0);
    }

    #[test]
    fn what_is_no_number_breaks_the_row() {
        let falling = |hole: usize| (0..300).map(move |i| if i == hole { f64::NAN } else { 0.9_f64.powi(i as i32) });
        let first = exhausted(falling(usize::MAX), 0.2, 0)[0];
        assert_eq!(exhausted(falling(first - 1), 0.2, 0)[0], first + 25);
    }

    #[test]
    fn a_state_comes_back_to_the_bit() {
        let mut gains = Gains::default();
        for i in 0..50 {
            gains.add(0.7_f64.powi(i) + 0.1, 0.2, i > 20);
        }
        let text = serde_json::to_string(&gains).unwrap();
        assert_eq!(serde_json::from_str::<Gains>(&text).unwrap(), gains);
    }

    #[test]
    fn the_average_and_its_error_by_hand() {
        let mut average = GainAverage::default();
        assert!(!average.is_below(f64::MAX));
        average.add(3.0);
        assert_eq!((average.mean(), average.error()), (3.0, f64::INFINITY));
        average.add(1.0);
        // Weights 0.95 and 1: mean 3.85/1.95. Around it the spread is 0.95/1.95 · (1.0256…)² + 1/1.95 · (0.974…)², and the
        // weights are worth 1.95²/1.9025 values.
        let mean = 3.85 / 1.95;
        let spread = (0.95 * (3.0_f64 - mean).powi(2) + (1.0 - mean).powi(2)) / 1.95;
        let error = (spread / (1.95 * 1.95 / 1.9025 - 1.0)).sqrt();
        assert!((average.mean() - mean).abs() < 1e-12 && (average.error() - error).abs() < 1e-12);
        // Before the tenth nothing is said of its error; from then on the interval decides.
        (3..10).for_each(|i| average.add(f64::from(i % 2)));
        assert!(!average.is_below(f64::MAX));
        average.add(1.0);
        let (mean, error) = (average.mean(), average.error());
        assert!(average.is_below(mean + 1.646 * error) && !average.is_below(mean + 1.644 * error));
    }

    #[test]
    fn the_error_is_that_of_means_of_noise() {
        // Ten thousand averages of noise of deviation 1: their own deviation is what each of them says of itself, in the mean.
        let mut state = 7_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (mut means, mut told) = (0.0, 0.0);
        for _ in 0..10_000 {
            let mut average = GainAverage::default();
            (0..60).for_each(|_| average.add((uniform() - 0.5) * 12_f64.sqrt()));
            means += average.mean().powi(2);
            told += average.error().powi(2);
        }
        let ratio = told / means;
        assert!((ratio - 1.0).abs() < 0.06, "{ratio}");
    }
}
