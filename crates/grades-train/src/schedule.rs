//! Learning-rate schedules, as transformers' `get_{cosine,linear,constant}_schedule_with_warmup` define them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrScheduler {
    /// Half a cosine down to 0 at the last step.
    #[default]
    Cosine,
    /// A straight line down to 0 at the last step.
    Linear,
    /// No change.
    Constant,
}

/// The learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub scheduler: LrScheduler,
    /// The rate at the end of the warm-up.
    pub learning_rate: f64,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: usize,
    /// All steps of the run.
    pub total_steps: usize,
}

impl Schedule {
    /// The rate of step `step`, counted from 0: with a warm-up the first step has rate 0, as in transformers.
    pub fn rate(&self, step: usize) -> f64 {
        let warmup = self.warmup_steps;
        if step < warmup {
            return self.learning_rate * step as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / self.total_steps.saturating_sub(warmup).max(1) as f64;
        self.learning_rate
            * match self.scheduler {
                LrScheduler::Cosine => (0.5 * (1.0 + (PI * done).cos())).max(0.0),
                LrScheduler::Linear => (1.0 - done).max(0.0),
                LrScheduler::Constant => 1.0,
            }
    }
}

/// The steps of a run: `max_steps` where given, else `num_epochs` (which may be a fraction) rounded up to whole steps.
pub fn total_steps(steps_per_epoch: usize, num_epochs: f64, max_steps: Option<usize>) -> usize {
    max_steps.unwrap_or_else(|| (num_epochs * steps_per_epoch as f64).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(scheduler: LrScheduler, warmup_steps: usize, total_steps: usize) -> Vec<f64> {
        let schedule = Schedule { scheduler, learning_rate: 1e-3, warmup_steps, total_steps };
        (0..=total_steps).map(|step| schedule.rate(step)).collect()
    }

    fn assert_close(actual: &[f64], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (step, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert!((a - e).abs() <= 1e-15, "step {step}: {a} instead of {e}");
        }
    }

    // LambdaLR's values of transformers 5.23 with learning rate 1e-3: (warm-up steps, all steps) in the names.
    const COSINE_3_10: [f64; 11] = [
        0.0,
        0.0003333333333333333,
        0.0006666666666666666,
        0.001,
        0.0009504844339512095,
        0.0008117449009293668,
        0.0006112604669781572,
        0.00038873953302184284,
        0.00018825509907063325,
        4.9515566048790485e-05,
        0.0,
    ];
    const COSINE_0_4: [f64; 5] = [0.001, 0.0008535533905932737, 0.0005, 0.00014644660940672628, 0.0];

    #[test]
    fn cosine() {
        assert_close(&rates(LrScheduler::Cosine, 3, 10), &COSINE_3_10);
        assert_close(&rates(LrScheduler::Cosine, 0, 4), &COSINE_0_4);
    }

    #[test]
    fn linear() {
        assert_close(&rates(LrScheduler::Linear, 2, 6), &[0.0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 0.0]);
    }

    #[test]
    fn constant() {
        assert_close(&rates(LrScheduler::Constant, 4, 6), &[0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3]);
    }

    #[test]
    fn degenerate_runs_stay_finite() {
        for scheduler in [LrScheduler::Cosine, LrScheduler::Linear, LrScheduler::Constant] {
            for (warmup, total) in [(0, 0), (5, 5), (7, 5), (0, 1)] {
                assert!(rates(scheduler, warmup, total).iter().all(|rate| (0.0..=1e-3).contains(rate)));
            }
        }
    }

    #[test]
    fn epochs_round_up_to_whole_steps() {
        assert_eq!(total_steps(20, 2.0, None), 40);
        assert_eq!(total_steps(21, 0.5, None), 11);
        assert_eq!(total_steps(20, 2.0, Some(7)), 7);
    }
}
