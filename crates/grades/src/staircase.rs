//! Whether samples are learnt by heart: the training loss then falls like a step of a stair where they come again.
//!
//! In the first epoch each batch is new, so that its loss is, in the mean, that of data which nothing has been learnt from.
//! At the next step samples come again. Where only what they share with others has been learnt, the loss goes on as it was;
//! where they have been learnt themselves, it falls at once (the "staircase" of fine-tuning losses; Howard and Whitaker 2023,
//! "Can LLMs learn from a single example?"). Measured between the last 25 steps of the first epoch and the first four of the second: 0.6 to
//! 1.9 nats in fine-tunes of a 135M model, 0.1 and nothing in a pretraining whose loss eight epochs lower by a fifth.
//!
//! With m the mean and s² the variance of the losses of the last 25 steps of an epoch, and m' the mean of the first n of the next, samples
//! count as learnt by heart when, at any n up to 25,
//!
//! m − m' ≥ max(min(1, m) / 4, 2 · s · √(1/25 + 1/n)):
//!
//! by a quarter of a nat a token, or a quarter of the loss where that is less, and by more than chance.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Steps on either side of the beginning of an epoch.
const LOOK: usize = 25;

/// How far the loss falls where samples are known, in nats or, below one nat, as a share of it.
const SHARE: f64 = 0.25;

/// How many standard errors that must be.
const ERRORS: f64 = 2.0;

/// The training loss around the beginnings of epochs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Staircase {
    /// The last steps with their losses, the oldest first.
    last: VecDeque<(usize, f64)>,
    /// Whether samples have been found to be known.
    found: bool,
}

impl Staircase {
    /// Takes in the loss of a step, with `epoch` steps to an epoch. A loss that is no number is left out.
    pub(crate) fn add(&mut self, step: usize, loss: f64, epoch: usize) {
        if !loss.is_finite() {
            return;
        }
        self.last.push_back((step, loss));
        if self.last.len() > 2 * LOOK {
            self.last.pop_front();
        }
        self.found = self.found || self.falls(step.saturating_sub(1) / epoch.max(1) * epoch);
    }

    /// Whether no loss is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// Whether samples are learnt by heart, or it cannot be told since no loss is known.
    pub(crate) fn is_found(&self) -> bool {
        self.found || self.is_empty()
    }

    /// Whether the loss has fallen after step `end`, with which an epoch ended.
    fn falls(&self, end: usize) -> bool {
        let before = self.last.iter().rev().filter(|(step, _)| *step <= end).take(LOOK).map(|(_, loss)| *loss);
        let after = self.last.iter().filter(|(step, _)| *step > end).map(|(_, loss)| *loss);
        let (before, after): (Vec<f64>, Vec<f64>) = (before.collect(), after.collect());
        if before.len() < 2 || after.is_empty() || after.len() > LOOK {
            return false;
        }
        let counts = [before.len() as f64, after.len() as f64];
        let [old, new] = [before.iter().sum::<f64>() / counts[0], after.iter().sum::<f64>() / counts[1]];
        let variance = before.iter().map(|loss| (loss - old).powi(2)).sum::<f64>() / (counts[0] - 1.0);
        let error = (variance * (1.0 / counts[0] + 1.0 / counts[1])).sqrt();
        old - new >= (SHARE * old.min(1.0)).max(ERRORS * error)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The step at which samples are found to be known, with `epoch` steps to an epoch.
    fn found(losses: impl IntoIterator<Item = f64>, epoch: usize) -> Option<usize> {
        let mut stair = Staircase::default();
        losses.into_iter().enumerate().find_map(|(i, loss)| {
            stair.add(i + 1, loss, epoch);
            stair.found.then_some(i + 1)
        })
    }

    /// Losses around `mean`, alternately above and below by `spread`, for so many steps.
    fn around(mean: f64, spread: f64, steps: usize) -> impl Iterator<Item = f64> {
        (0..steps).map(move |i| mean + if i % 2 == 0 { spread } else { -spread })
    }

    #[test]
    fn the_rule_by_hand() {
        // Before: 3.2, 2.8, 3.2, 2.8, of mean 3 and variance 0.16/3. The error of one value against them is
        // 0.2309 · √(1/4 + 1) = 0.2582, of two 0.2000, so the loss must fall by 0.5164 and then by 0.4, until it is a quarter.
        let then = |after: &[f64]| found(around(3.0, 0.2, 4).chain(after.iter().copied()), 4);
        assert_eq!(then(&[2.48]), Some(5));
        assert_eq!(then(&[2.49]), None);
        assert_eq!(then(&[2.49, 2.70]), Some(6));
        assert_eq!(then(&[2.49, 2.72]), None);
        // It does not fall before the epoch is over.
        assert_eq!(found(around(3.0, 0.2, 4).chain([1.0; 3]), 9), None);
        // Losses that spread little are held to a quarter of a nat, and below one nat to a quarter of themselves.
        let fall = |mean: f64, by: f64| found(around(mean, 0.0, 8).chain(std::iter::repeat_n(mean - by, 3)), 8);
        assert_eq!((fall(3.0, 0.251), fall(3.0, 0.249)), (Some(9), None));
        assert_eq!((fall(0.4, 0.101), fall(0.4, 0.099)), (Some(9), None));
    }

    /// Losses around the second epoch, and where the script that cut them found them known.
    #[derive(Deserialize)]
    struct Recorded {
        before: Vec<f64>,
        after: Vec<f64>,
        known: Option<usize>,
    }

    #[test]
    fn recorded_runs_are_judged_as_by_the_script_that_cut_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/recorded/staircase.json");
        let runs: BTreeMap<String, Recorded> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for (name, run) in &runs {
            let epoch = run.before.len();
            let found = found(run.before.iter().chain(&run.after).copied(), epoch).map(|step| step - epoch);
            assert_eq!(found, run.known, "{name}");
        }
        let kept_on = runs.iter().filter(|(_, run)| run.known.is_none()).map(|(name, _)| name.as_str());
        assert_eq!(kept_on.collect::<Vec<_>>(), ["pretraining", "pretraining_with_cosine"]);
    }

    #[test]
    fn a_loss_that_goes_on_falling_slowly_is_no_step() {
        // A tenth of a nat in 25 steps.
        assert_eq!(found((0..400).map(|i| 3.0 - 0.004 * f64::from(i)), 100), None);
    }

    #[test]
    fn only_the_first_steps_of_an_epoch_count_and_any_epoch_does() {
        // A fall 26 steps after the beginning of an epoch is another matter.
        assert_eq!(found(around(3.0, 0.0, 126).chain(std::iter::repeat_n(2.0, 74)), 100), None);
        // With the third epoch.
        assert_eq!(found(around(3.0, 0.1, 200).chain(std::iter::repeat_n(2.0, 5)), 100), Some(201));
        // 25 steps before count: what was higher earlier does not.
        assert_eq!(found(around(9.0, 0.0, 75).chain(around(3.0, 0.0, 30)), 100), None);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let losses = around(3.0, 0.2, 4).chain([f64::NAN, f64::NEG_INFINITY, 2.48]);
        assert_eq!(found(losses, 4), Some(7));
    }

    #[test]
    fn a_state_comes_back_to_the_bit() {
        let mut stair = Staircase::default();
        for i in 0..80 {
            stair.add(i + 1, 1.0 / (i + 3) as f64, 30);
        }
        let json = serde_json::to_string(&stair).unwrap();
        assert_eq!(serde_json::from_str::<Staircase>(&json).unwrap(), stair);
    }
}
