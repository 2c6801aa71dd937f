//! The gain of an update, and when there is nothing left of it.
//!
//! The gain of the last update is g = −⟨∇W_t, W_{t−1} − W_{t−2}⟩ over all parameters: how far the update has lowered the loss
//! of the next batch, to first order, in nats. On data that were not seen before it is an unbiased estimate of how far the
//! update has lowered the expected loss, so its sum foretells the validation loss without validating. The moments of AdamW
//! tell what the last update was, so that it costs no copy of weights or gradients.
//!
//! Once every sample has been seen, updates also lower the loss by memorising, which makes gains larger than what they are
//! worth. Gains that have become small all the same say that nothing is left:
//!
//! t · ḡ_t < share · Σ_{s ≤ t} g_s,
//!
//! where ḡ is the average of the last gains: the present gain is less than a share of the mean gain so far.

use serde::{Deserialize, Serialize};

use crate::exact;

/// Gains over which ḡ is averaged: each new one counts 1/20.
const WINDOW: f64 = 20.0;

/// For how many steps in a row gains must be small.
const PATIENCE: usize = 10;

/// The gains of one run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gains {
    count: u64,
    /// Σ g.
    #[serde(with = "exact")]
    sum: f64,
    /// Σ weight · g, the newest weighing most.
    #[serde(with = "exact")]
    recent: f64,
    /// Σ weight.
    #[serde(with = "exact")]
    weight: f64,
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
        let keep = 1.0 - 1.0 / WINDOW;
        self.count += 1;
        self.sum += gain;
        self.recent = keep * self.recent + gain;
        self.weight = keep * self.weight + 1.0;
        let small = self.count as f64 * self.recent / self.weight < share * self.sum;
        self.small_for = if small && repeated { self.small_for + 1 } else { 0 };
    }

    /// Whether nothing is left.
    pub(crate) fn are_exhausted(&self) -> bool {
        self.small_for >= PATIENCE
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
        // Ten gains of 1, then none. At step 10 + n the mean so far is 10 / (10 + n), and the average of the last ones, a
        // geometric sum, 0.95ⁿ · (1 − 0.95¹⁰) / (1 − 0.95¹⁰⁺ⁿ). It is below a fifth of the mean for the tenth time nine
        // steps after the first.
        let average = |n: i32| 0.95_f64.powi(n) * (1.0 - 0.95_f64.powi(10)) / (1.0 - 0.95_f64.powi(10 + n));
        let first = (1..).find(|&n| f64::from(10 + n) * average(n) < 2.0).unwrap();
        let trace = std::iter::repeat_n(1.0, 10).chain(std::iter::repeat_n(0.0, 90));
        assert_eq!(exhausted(trace, 0.2, 0).first(), Some(&(10 + first as usize + 9)));
    }

    #[test]
    fn constant_gains_are_never_exhausted_and_nothing_is_in_the_first_epoch() {
        assert_eq!(exhausted(std::iter::repeat_n(0.3, 500), 0.99, 0).len(), 0);
        let falling = || (0..300).map(|i| 0.9_f64.powi(i));
        let first = exhausted(falling(), 0.2, 0)[0];
        assert!(first > 10 && first < 100, "{first}");
        // Where the data repeat later, ten steps after that.
        assert_eq!(exhausted(falling(), 0.2, 200)[0], 210);
        assert_eq!(exhausted(falling(), 0.2, 300).len(), 0);
        assert_eq!(exhausted(falling(), 0.0, 0).len(), 0);
    }

    #[test]
    fn what_is_no_number_breaks_the_row() {
        let falling = |hole: usize| (0..300).map(move |i| if i == hole { f64::NAN } else { 0.9_f64.powi(i as i32) });
        let first = exhausted(falling(usize::MAX), 0.2, 0)[0];
        assert_eq!(exhausted(falling(first - 1), 0.2, 0)[0], first + 10);
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
}
