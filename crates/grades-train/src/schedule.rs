//! Learning-rate schedules as transformers' `get_scheduler` defines them, under its names.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Half a cosine down to 0 at the last step.
    #[default]
    Cosine,
    /// A straight line down to 0 at the last step.
    Linear,
    /// No change.
    #[serde(alias = "constant_with_warmup")]
    Constant,
    /// No change, and a fall at the end.
    WarmupStableDecay,
    /// A cosine that ends above 0.
    CosineWithMinLr,
    /// A power of the share of steps that is left.
    Polynomial,
    /// One over the root of the step.
    InverseSqrt,
}

impl LrScheduler {
    /// Every shape.
    pub const ALL: [Self; 7] = [
        Self::Cosine,
        Self::Linear,
        Self::Constant,
        Self::WarmupStableDecay,
        Self::CosineWithMinLr,
        Self::Polynomial,
        Self::InverseSqrt,
    ];

    /// The name used in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Linear => "linear",
            Self::Constant => "constant",
            Self::WarmupStableDecay => "warmup_stable_decay",
            Self::CosineWithMinLr => "cosine_with_min_lr",
            Self::Polynomial => "polynomial",
            Self::InverseSqrt => "inverse_sqrt",
        }
    }

    /// The options that it reads.
    fn reads(self) -> &'static [&'static str] {
        match self {
            Self::Cosine => &["num_cycles"],
            Self::Linear | Self::Constant => &[],
            Self::WarmupStableDecay => {
                &["num_decay_steps", "num_stable_steps", "decay_type", "min_lr_ratio", "num_cycles"]
            }
            Self::CosineWithMinLr => &["min_lr", "min_lr_rate", "num_cycles"],
            Self::Polynomial => &["power", "lr_end"],
            Self::InverseSqrt => &["timescale"],
        }
    }
}

/// How `warmup_stable_decay` falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DecayType {
    /// A straight line.
    #[serde(rename = "linear")]
    Linear,
    /// A cosine.
    #[default]
    #[serde(rename = "cosine")]
    Cosine,
    /// One minus the root of the share that is done: fast at first.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// `lr_scheduler_kwargs`: the options of a shape; one that the chosen shape does not read is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LrSchedulerOptions {
    /// `warmup_stable_decay`: steps of the fall at the end. Left out: what `num_stable_steps` leaves, else a fifth of all
    /// steps, rounded up.
    pub num_decay_steps: Option<usize>,
    /// `warmup_stable_decay`: steps at the full rate after the warm-up. Left out: what is left of the run. Steps after the
    /// fall have the lowest rate.
    pub num_stable_steps: Option<usize>,
    /// `warmup_stable_decay`: how it falls, `linear`, `cosine` (default) or `1-sqrt`.
    pub decay_type: Option<DecayType>,
    /// `warmup_stable_decay`: the lowest rate, where the warm-up begins and the fall ends, as a share of `learning_rate`.
    /// Default: 0.
    pub min_lr_ratio: Option<f64>,
    /// Waves of a cosine. Default: 0.5, which only falls.
    pub num_cycles: Option<f64>,
    /// `cosine_with_min_lr`: the rate that it ends at. This one or `min_lr_rate` is required.
    pub min_lr: Option<f64>,
    /// `cosine_with_min_lr`: the same as a share of `learning_rate`.
    pub min_lr_rate: Option<f64>,
    /// `polynomial`: the power. Default: 1, a straight line.
    pub power: Option<f64>,
    /// `polynomial`: the rate that it ends at. Default: 1e-7.
    pub lr_end: Option<f64>,
    /// `inverse_sqrt`: steps until the rate has fallen by 1 / √2 or so: it is √(timescale / (timescale + steps after the
    /// warm-up)). Default: the steps of the warm-up, or 10,000 without one.
    pub timescale: Option<usize>,
}

impl LrSchedulerOptions {
    /// What is wrong with them for a shape that starts at `learning_rate`, if anything.
    #[must_use]
    pub fn problem(&self, scheduler: LrScheduler, learning_rate: f64) -> Option<String> {
        let key = |key: &str| format!("`lr_scheduler_kwargs.{key}`");
        let set = [
            ("num_decay_steps", self.num_decay_steps.is_some()),
            ("num_stable_steps", self.num_stable_steps.is_some()),
            ("decay_type", self.decay_type.is_some()),
            ("min_lr_ratio", self.min_lr_ratio.is_some()),
            ("num_cycles", self.num_cycles.is_some()),
            ("min_lr", self.min_lr.is_some()),
            ("min_lr_rate", self.min_lr_rate.is_some()),
            ("power", self.power.is_some()),
            ("lr_end", self.lr_end.is_some()),
            ("timescale", self.timescale.is_some()),
        ];
        if let Some((unread, _)) = set.iter().find(|(key, set)| *set && !scheduler.reads().contains(key)) {
            let readers = LrScheduler::ALL.iter().filter(|other| other.reads().contains(unread));
            let readers: Vec<&str> = readers.map(|other| other.name()).collect();
            return Some(format!(
                "{} is not read by `lr_scheduler: {}`, but by {}; remove it, or choose another schedule",
                key(unread),
                scheduler.name(),
                readers.join(" and ")
            ));
        }
        if scheduler == LrScheduler::CosineWithMinLr && self.min_lr.is_some() == self.min_lr_rate.is_some() {
            return Some(format!(
                "`lr_scheduler: cosine_with_min_lr` needs one of {} and {}",
                key("min_lr"),
                key("min_lr_rate")
            ));
        }
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let checks = [
            ("min_lr_ratio", self.min_lr_ratio, share as fn(f64) -> bool, "from 0 to 1"),
            ("min_lr_rate", self.min_lr_rate, share, "from 0 to 1"),
            ("num_cycles", self.num_cycles, |value| value > 0.0 && value.is_finite(), "above 0"),
            ("power", self.power, |value| value > 0.0 && value.is_finite(), "above 0"),
            ("timescale", self.timescale.map(|steps| steps as f64), |value| value > 0.0, "above 0"),
        ];
        if let Some((name, Some(value), _, range)) =
            checks.iter().find(|(_, value, fits, _)| value.is_some_and(|value| !fits(value)))
        {
            return Some(format!("{}: {value} must be a number {range}", key(name)));
        }
        let ends = [
            ("min_lr", self.min_lr),
            ("lr_end", (scheduler == LrScheduler::Polynomial).then(|| self.lr_end.unwrap_or(LR_END))),
        ];
        let (name, end) = ends.into_iter().find_map(|(name, end)| Some((name, end?)))?;
        let fits = end >= 0.0 && (end < learning_rate || name == "min_lr" && end == learning_rate);
        (!fits)
            .then(|| format!("{}: {end:e} must be a number from 0 up to `learning_rate`, {learning_rate:e}", key(name)))
    }
}

/// The last rate of `polynomial`, if none is given.
const LR_END: f64 = 1e-7;

/// The share of all steps over which `warmup_stable_decay` falls, if nothing is given.
const DECAY_SHARE: f64 = 0.2;

/// The learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub scheduler: LrScheduler,
    /// Its options.
    pub options: LrSchedulerOptions,
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
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        let (options, warmup) = (&self.options, self.warmup_steps);
        let lowest = options.min_lr_ratio.unwrap_or(0.0);
        if step < warmup {
            return lowest + (1.0 - lowest) * (step as f64 / warmup as f64);
        }
        let after = (step - warmup) as f64;
        let done = after / self.total_steps.saturating_sub(warmup).max(1) as f64;
        match self.scheduler {
            LrScheduler::Cosine => self.cosine(done, 0.0),
            LrScheduler::Linear => (1.0 - done).max(0.0),
            LrScheduler::Constant => 1.0,
            LrScheduler::WarmupStableDecay => self.stable_then_decay(after, lowest),
            LrScheduler::CosineWithMinLr => {
                let of_rate = |rate| if self.learning_rate > 0.0 { rate / self.learning_rate } else { 0.0 };
                self.cosine(done, options.min_lr_rate.or(options.min_lr.map(of_rate)).unwrap_or(0.0))
            }
            LrScheduler::Polynomial => {
                let end = options.lr_end.unwrap_or(LR_END) / self.learning_rate;
                (1.0 - end) * (1.0 - done).max(0.0).powf(options.power.unwrap_or(1.0)) + end
            }
            LrScheduler::InverseSqrt => {
                let timescale = options.timescale.unwrap_or(if warmup > 0 { warmup } else { 10_000 }) as f64;
                (timescale / (timescale + after)).sqrt()
            }
        }
    }

    fn cosine(&self, done: f64, lowest: f64) -> f64 {
        let waves = 2.0 * self.options.num_cycles.unwrap_or(0.5);
        ((1.0 - lowest) * 0.5 * (1.0 + (PI * waves * done).cos()) + lowest).max(0.0)
    }

    /// Of `warmup_stable_decay`, `after` steps after the warm-up.
    fn stable_then_decay(&self, after: f64, lowest: f64) -> f64 {
        let left = self.total_steps as f64 - self.warmup_steps as f64;
        let LrSchedulerOptions { num_decay_steps, num_stable_steps, decay_type, .. } = self.options;
        let (stable, decay) = match (num_stable_steps, num_decay_steps) {
            (Some(stable), Some(decay)) => (stable as f64, decay as f64),
            (Some(stable), None) => (stable as f64, left - stable as f64),
            // Below 0 where the fall is longer than what is left: it then begins within, as in transformers.
            (None, Some(decay)) => (left - decay as f64, decay as f64),
            (None, None) => {
                let decay = (DECAY_SHARE * self.total_steps as f64).ceil().min(left);
                (left - decay, decay)
            }
        };
        if after < stable {
            return 1.0;
        }
        if after >= stable + decay {
            return lowest;
        }
        let done = (after - stable) / decay.max(1.0);
        match decay_type.unwrap_or_default() {
            DecayType::Linear => (1.0 - lowest) * (1.0 - done) + lowest,
            DecayType::Cosine => self.cosine(done, lowest),
            DecayType::OneMinusSqrt => (1.0 - lowest) * (1.0 - done.sqrt()) + lowest,
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

    const PLAIN: LrSchedulerOptions = LrSchedulerOptions {
        num_decay_steps: None,
        num_stable_steps: None,
        decay_type: None,
        min_lr_ratio: None,
        num_cycles: None,
        min_lr: None,
        min_lr_rate: None,
        power: None,
        lr_end: None,
        timescale: None,
    };

    fn rates(scheduler: LrScheduler, warmup_steps: usize, total_steps: usize) -> Vec<f64> {
        rates_with(scheduler, PLAIN, warmup_steps, total_steps)
    }

    fn rates_with(
        scheduler: LrScheduler,
        options: LrSchedulerOptions,
        warmup_steps: usize,
        total_steps: usize,
    ) -> Vec<f64> {
        let schedule = Schedule { scheduler, options, learning_rate: 1e-3, warmup_steps, total_steps };
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

    // The rest are LambdaLR's values of transformers 5.24 at the same rate.

    #[test]
    fn cosine_of_several_waves() {
        let options = LrSchedulerOptions { num_cycles: Some(1.5), ..PLAIN };
        let expected = [0.0, 0.0005, 0.001, 0.0005, 0.0, 0.0004999999999999999, 0.001, 0.0005000000000000001, 0.0];
        assert_close(&rates_with(LrScheduler::Cosine, options, 2, 8), &expected);
    }

    #[test]
    fn warmup_stable_decay() {
        let wsd = |options, warmup| rates_with(LrScheduler::WarmupStableDecay, options, warmup, 10);
        let four = LrSchedulerOptions { num_decay_steps: Some(4), ..PLAIN };
        let (a, b) = (0.0008535533905932737, 0.00014644660940672628);
        let expected = [0.0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, a, 5e-4, b, 0.0];
        assert_close(&wsd(four, 2), &expected);
        let linear = LrSchedulerOptions { decay_type: Some(DecayType::Linear), min_lr_ratio: Some(0.1), ..four };
        let expected = [1e-4, 0.00055, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 0.000775, 0.00055, 0.000325, 1e-4];
        assert_close(&wsd(linear, 2), &expected);
        let root = LrSchedulerOptions { num_decay_steps: Some(5), decay_type: Some(DecayType::OneMinusSqrt), ..PLAIN };
        let fall = [0.0005527864045000422, 0.00036754446796632414, 0.0002254033307585166, 0.00010557280900008415, 0.0];
        assert_close(&wsd(root, 0), &[&[1e-3; 6][..], &fall].concat());
        let short = LrSchedulerOptions {
            num_decay_steps: Some(3),
            num_stable_steps: Some(3),
            min_lr_ratio: Some(0.2),
            decay_type: Some(DecayType::Cosine),
            num_cycles: Some(0.25),
            ..PLAIN
        };
        let expected = [2e-4, 6e-4, 1e-3, 1e-3, 1e-3, 1e-3, 0.0009464101615137757, 8e-4, 2e-4, 2e-4, 2e-4];
        assert_close(&wsd(short, 2), &expected);
        // A fifth of the steps where nothing is said, and what is stable tells the rest.
        let two = LrSchedulerOptions { num_decay_steps: Some(2), ..PLAIN };
        assert_eq!(wsd(PLAIN, 3), wsd(two, 3));
        assert_eq!(wsd(LrSchedulerOptions { num_stable_steps: Some(5), ..PLAIN }, 3), wsd(two, 3));
    }

    #[test]
    fn cosine_with_min_lr() {
        let cosine = |options| rates_with(LrScheduler::CosineWithMinLr, options, 2, 8);
        let expected = [
            0.0,
            5e-4,
            1e-3,
            0.0009397114317029974,
            0.000775,
            0.00055,
            0.00032500000000000015,
            0.00016028856829700258,
            1e-4,
        ];
        assert_close(&cosine(LrSchedulerOptions { min_lr: Some(1e-4), ..PLAIN }), &expected);
        assert_close(&cosine(LrSchedulerOptions { min_lr_rate: Some(0.1), ..PLAIN }), &expected);
        let wave = LrSchedulerOptions { min_lr_rate: Some(0.3), num_cycles: Some(1.0), ..PLAIN };
        assert_close(&cosine(wave), &[0.0, 5e-4, 1e-3, 0.000825, 0.000475, 3e-4, 0.000475, 0.000825, 1e-3]);
    }

    #[test]
    fn polynomial() {
        let expected = [0.0, 5e-4, 1e-3, 0.00083335, 0.0006667, 0.00050005, 0.0003334, 0.00016675, 1e-7];
        assert_close(&rates(LrScheduler::Polynomial, 2, 8), &expected);
        let square = LrSchedulerOptions { power: Some(2.0), lr_end: Some(1e-4), ..PLAIN };
        let expected = [0.0, 5e-4, 1e-3, 0.000725, 5e-4, 0.000325, 2e-4, 0.000125, 1e-4];
        assert_close(&rates_with(LrScheduler::Polynomial, square, 2, 8), &expected);
    }

    #[test]
    fn inverse_sqrt() {
        let expected = [
            0.0,
            5e-4,
            1e-3,
            0.0008164965809277262,
            0.0007071067811865475,
            0.0006324555320336759,
            0.0005773502691896259,
            0.0005345224838248488,
            5e-4,
        ];
        assert_close(&rates(LrScheduler::InverseSqrt, 2, 8), &expected);
        let three = LrSchedulerOptions { timescale: Some(3), ..PLAIN };
        let found = rates_with(LrScheduler::InverseSqrt, three, 0, 3);
        assert_close(&found, &[0.001, 0.0008660254037844387, 0.0007745966692414834, 0.0007071067811865475]);
        // Without a warm-up 10,000 steps.
        let plain = Schedule {
            scheduler: LrScheduler::InverseSqrt,
            options: PLAIN,
            learning_rate: 2.0,
            warmup_steps: 0,
            total_steps: 30_001,
        };
        assert_eq!(plain.rate(30_000), 1.0);
    }

    #[test]
    fn an_option_that_a_shape_does_not_read_is_refused_by_name() {
        let some = |key: &str| -> LrSchedulerOptions {
            let value = if key == "decay_type" { r#""linear""# } else { "1" };
            serde_json::from_str(&format!(r#"{{"{key}": {value}}}"#)).unwrap()
        };
        for scheduler in LrScheduler::ALL {
            for key in [
                "num_decay_steps",
                "num_stable_steps",
                "decay_type",
                "min_lr_ratio",
                "num_cycles",
                "min_lr",
                "min_lr_rate",
                "power",
                "lr_end",
                "timescale",
            ] {
                let problem = some(key).problem(scheduler, 2.0).unwrap_or_default();
                let is_unread = problem.contains(&format!("`lr_scheduler_kwargs.{key}` is not read by"));
                assert_eq!(is_unread, !scheduler.reads().contains(&key), "{key}, {scheduler:?}: {problem}");
            }
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let problem = |json: &str, scheduler| {
            serde_json::from_str::<LrSchedulerOptions>(json).unwrap().problem(scheduler, 1e-3).unwrap_or_default()
        };
        for (json, scheduler, told) in [
            ("{}", LrScheduler::CosineWithMinLr, "needs one of"),
            (r#"{"min_lr": 0, "min_lr_rate": 0}"#, LrScheduler::CosineWithMinLr, "needs one of"),
            (r#"{"min_lr": 0.01}"#, LrScheduler::CosineWithMinLr, "up to `learning_rate`"),
            (r#"{"min_lr_rate": 1.5}"#, LrScheduler::CosineWithMinLr, "from 0 to 1"),
            (r#"{"lr_end": 0.001}"#, LrScheduler::Polynomial, "up to `learning_rate`"),
            (r#"{"power": 0}"#, LrScheduler::Polynomial, "above 0"),
            (r#"{"timescale": 0}"#, LrScheduler::InverseSqrt, "above 0"),
            (r#"{"min_lr_ratio": -0.1}"#, LrScheduler::WarmupStableDecay, "from 0 to 1"),
            (r#"{"num_cycles": 0}"#, LrScheduler::Cosine, "above 0"),
        ] {
            let found = problem(json, scheduler);
            assert!(found.contains(told), "{json}: {found}");
        }
        assert_eq!(problem(r#"{"min_lr": 0.001}"#, LrScheduler::CosineWithMinLr), "");
        assert!(PLAIN.problem(LrScheduler::Polynomial, 1e-8).is_some());
    }

    #[test]
    fn degenerate_runs_stay_finite() {
        for scheduler in LrScheduler::ALL {
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
