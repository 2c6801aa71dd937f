//! How much a run will write, before it begins.

use std::path::Path;

use serde::Serialize;

use super::error::TrainError;
use super::plan::MemoryPlan;
use crate::config::{Config, Saves};

/// Bytes of a value as it is saved.
const F32: u64 = 4;

/// What a run will write, in bytes, but for its logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskPlan {
    /// The trained model or adapter.
    pub model: u64,
    /// One checkpoint.
    pub checkpoint: u64,
    /// Checkpoints that lie there at a time, with the one that is being written.
    pub checkpoints: u64,
    /// What is free there, where the system tells.
    pub available: Option<u64>,
}

impl DiskPlan {
    /// Of a run of a model of `parameters` values, of which `trainable` train or are adapters.
    pub(super) fn of(
        config: &Config,
        memory: &MemoryPlan,
        (parameters, trainable): (u64, u64),
        (steps_per_epoch, planned): (usize, usize),
    ) -> Self {
        let adapted = config.adapter.is_some();
        let saves = config.saves(steps_per_epoch);
        // At most: each validation may be the best so far.
        let validations = config.validates_every(steps_per_epoch, planned).filter(|_| saves == Saves::Best);
        let due =
            |step: &usize| saves.due(*step, planned) || validations.is_some_and(|every| step.is_multiple_of(every));
        let written = (1..planned).filter(due).count() as u64;
        // The best and the last stay, whatever the limit.
        let least = if config.best_model().is_some() { 2 } else { 1 };
        let kept = config.save_total_limit.map_or(written, |limit| written.min(limit.max(least) as u64 + 1));
        let model = F32 * if adapted { trainable } else { parameters };
        let states = if config.save_only_model { 0 } else { memory.optimizer + memory.kept + memory.average };
        Self { model, checkpoint: model + states, checkpoints: kept, available: grades_fs::free(&config.output_dir) }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.model + self.checkpoint * self.checkpoints
    }

    /// Refuses a run that the disk cannot hold.
    ///
    /// # Errors
    /// If it needs more than is free.
    pub(super) fn check(&self, output_dir: &Path) -> Result<(), TrainError> {
        match self.available.filter(|available| *available < self.total()) {
            Some(available) => Err(TrainError::Disk {
                path: output_dir.to_owned(),
                needed: self.total(),
                available,
                way_out: if self.checkpoints > 1 { "lower save_total_limit, or " } else { "" },
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_way_out() {
        let memory = MemoryPlan { optimizer: 800, kept: 400, ..MemoryPlan::default() };
        let plan = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(ToString::to_string).collect();
            let config =
                Config::parse("model: m\ndatasets: [{path: rows.jsonl, type: completion}]\n", &options).unwrap();
            DiskPlan { available: Some(9_999), ..DiskPlan::of(&config, &memory, (100, 10), (3, 10)) }
        };
        let size = |options: &[&str]| {
            let plan = plan(options);
            (plan.model, plan.checkpoint, plan.checkpoints, plan.total())
        };
        assert_eq!(size(&[]), (400, 1_600, 0, 400));
        // After steps 2, 4, 6 and 8; the last one is the model.
        assert_eq!(size(&["save_steps=2"]), (400, 1_600, 4, 6_800));
        assert_eq!(size(&["save_steps=2", "save_total_limit=1"]), (400, 1_600, 2, 3_600));
        assert_eq!(size(&["save_steps=2", "adapter=lora"]), (40, 1_240, 4, 5_000));
        // After steps 3, 6 and 9; two of them stay, the best and the last, beside the one that is being written.
        let epochs = ["save_strategy=epoch", "val_set_size=2"];
        assert_eq!(size(&epochs), (400, 1_600, 3, 5_200));
        assert_eq!(size(&[&epochs[..], &["save_total_limit=1"]].concat()), (400, 1_600, 2, 3_600));
        let best =
            [&epochs[..], &["save_total_limit=1", "load_best_model_at_end=true", "save_only_model=true"]].concat();
        assert_eq!(size(&best), (400, 400, 3, 1_600));
        assert_eq!(size(&["save_strategy=best", "val_set_size=2", "eval_steps=2"]), (400, 1_600, 4, 6_800));
        assert!(plan(&["save_steps=2"]).check(Path::new("run")).is_ok());
        let error = plan(&["save_steps=1"]).check(Path::new("run")).unwrap_err().to_string();
        assert!(
            error.starts_with("run: ") && error.contains("save_total_limit") && error.contains("output_dir"),
            "{error}"
        );
    }
}
