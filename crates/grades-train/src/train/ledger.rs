//! What a run has cost so far: steps, tokens, operations, seconds, bytes.
//!
//! A checkpoint holds the whole ledger, so that one more counter that goes on after a resume is one more field.

use std::time::Instant;

use grades::{Flops, Spent};
use serde::{Deserialize, Serialize};

use crate::config::BestMetric;

/// The counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Steps that were made.
    pub steps: usize,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    /// Operations of the training steps.
    pub flops: Flops,
    /// The learning rate, where the run has found it itself.
    pub learning_rate: Option<Exact>,
    /// The sum of the steps' losses.
    pub loss_sum: Exact,
    /// Seconds of all steps with validation.
    pub seconds: f64,
    /// Seconds of them spent on validation.
    pub validation_seconds: f64,
    /// Seconds of them spent on measuring for the policy.
    pub monitor_seconds: f64,
    /// Operations of validation.
    pub validation_flops: u64,
    /// Operations of measuring.
    pub monitor_flops: u64,
    /// Most bytes that were kept from step to step for the policy.
    pub monitor_bytes: u64,
    /// Seconds of answering prompts and of scoring benchmarks between steps, which are none of `seconds`.
    #[serde(default)]
    pub evaluation_seconds: f64,
    /// Operations of these, of which no policy is told.
    #[serde(default)]
    pub evaluation_flops: u64,
    /// The best checkpoint so far, where one is looked for.
    #[serde(default)]
    pub best: Option<Best>,
    /// The sum of the losses, and the number of steps that have one, when `train_loss` was last asked for.
    #[serde(default)]
    judged: (Exact, usize),
    /// Steps that changed nothing, as their loss or gradients were not finite.
    pub skipped_steps: usize,
    /// The last of them.
    pub passed_over: Option<usize>,
    /// What losses are usual.
    usual: Usual,
}

/// The best checkpoint of a run so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which it was written.
    pub step: usize,
    /// What it was judged by.
    pub metric: BestMetric,
    /// What that came to.
    pub value: Exact,
}

/// Mean and spread of the last losses, each weighted 0.95 times the one after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Usual {
    losses: usize,
    mean: Exact,
    variance: Exact,
}

impl Ledger {
    /// Counts the rest of a step that began at `clock`; its seconds.
    pub(super) fn count_step(&mut self, clock: Instant, loss: f64, tokens: u64) -> f64 {
        let seconds = clock.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.tokens += tokens;
        self.loss_sum.0 += loss;
        seconds
    }

    /// Counts a step that changes nothing.
    pub(super) fn pass_over(&mut self, step: usize) {
        self.skipped_steps += 1;
        self.passed_over = Some(step);
    }

    /// The usual loss, where `loss` lies more than six standard deviations of the last losses above it; and takes it among them.
    pub(super) fn spike(&mut self, loss: f64) -> Option<f64> {
        /// Losses of which nothing is said yet.
        const FIRST: usize = 20;
        const WEIGHT: f64 = 0.05;
        let Usual { losses, mean, variance } = &mut self.usual;
        let off = loss - mean.0;
        let usual = (*losses >= FIRST && off > 6.0 * variance.0.sqrt()).then_some(mean.0);
        if *losses == 0 {
            mean.0 = loss;
        } else {
            mean.0 += WEIGHT * off;
            variance.0 = (1.0 - WEIGHT) * (variance.0 + WEIGHT * off * off);
        }
        *losses += 1;
        usual
    }

    /// What a policy is told of it.
    pub(super) fn spent(&self) -> Spent {
        let flops = self.flops.total() + self.validation_flops + self.monitor_flops;
        Spent { flops, seconds: self.seconds }
    }

    /// Counts the seconds since `clock` as the monitor's, without those of validation since there were `validated`.
    pub(super) fn monitored(&mut self, clock: Instant, validated: f64) {
        self.monitor_seconds += clock.elapsed().as_secs_f64() - (self.validation_seconds - validated);
    }

    /// The mean loss of the steps up to `step` since this was last judged; `None` where all were passed over.
    pub(super) fn recent_loss(&self, step: usize) -> Option<f64> {
        let (sum, steps) = self.judged;
        let steps = step - self.skipped_steps - steps;
        (steps > 0).then(|| (self.loss_sum.0 - sum.0) / steps as f64)
    }

    /// Remembers that the losses up to `step` have been judged.
    pub(super) fn judged_at(&mut self, step: usize) {
        self.judged = (self.loss_sum, step - self.skipped_steps);
    }

    /// The mean loss of the steps, as transformers' `training_loss`.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum.0 / self.steps.saturating_sub(self.skipped_steps).max(1) as f64
    }
}

/// A number that is stored by its bits: as a decimal number it might come back as its neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Exact(pub f64);

impl From<u64> for Exact {
    fn from(bits: u64) -> Self {
        Self(f64::from_bits(bits))
    }
}

impl From<Exact> for u64 {
    fn from(Exact(number): Exact) -> Self {
        number.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_spike_where_it_lies_far_above_those_before() {
        // Losses of 2 ± 0.1 in turn: deviations of 0.1 around a mean near 2, so that 2.5 is within six of them and 2.8 is not.
        let after = |losses: usize, loss: f64| {
            let mut ledger = Ledger::default();
            for n in 0..losses {
                let usual = if n % 2 == 0 { 1.9 } else { 2.1 };
                assert_eq!(ledger.spike(usual), None, "{n}");
            }
            ledger.spike(loss)
        };
        assert_eq!(after(200, 2.5), None);
        let usual = after(200, 2.8).unwrap();
        assert!((usual - 2.0).abs() < 0.02, "{usual}");
        // A fall is none, and of the first losses nothing is known.
        assert_eq!(after(200, -5.0), None);
        assert_eq!((after(19, 9.0), after(20, 9.0).is_some()), (None, true));
    }

    #[test]
    fn recent_losses_are_those_since_they_were_last_judged() {
        let mut ledger = Ledger { loss_sum: Exact(6.0), ..Ledger::default() };
        assert_eq!((ledger.recent_loss(3), ledger.recent_loss(0)), (Some(2.0), None));
        ledger.judged_at(3);
        ledger.loss_sum.0 += 5.0;
        ledger.pass_over(5);
        assert_eq!((ledger.recent_loss(5), ledger.recent_loss(6)), (Some(5.0), Some(2.5)));
    }

    #[test]
    fn a_step_that_was_passed_over_has_no_part_in_the_mean() {
        let mut ledger = Ledger { steps: 3, loss_sum: Exact(5.0), ..Ledger::default() };
        ledger.pass_over(2);
        assert_eq!((ledger.mean_loss(), ledger.passed_over), (2.5, Some(2)));
    }
}
