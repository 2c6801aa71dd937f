//! How much a run will write, before it begins.

use std::path::Path;

use serde::Serialize;

use super::error::TrainError;
use super::plan::MemoryPlan;
use crate::config::Config;

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
    pub(super) fn of(config: &Config, memory: &MemoryPlan, parameters: u64, trainable: u64, planned: usize) -> Self {
        let adapted = config.adapter.is_some();
        let due = |save: &crate::config::SaveSteps| (1..planned).filter(|step| save.due(*step, planned)).count() as u64;
        let written = config.save_steps.as_ref().map_or(0, due);
        let kept = config.save_total_limit.map_or(written, |limit| written.min(limit as u64 + 1));
        Self {
            model: F32 * if adapted { trainable } else { parameters },
            checkpoint: F32 * if adapted { trainable } else { parameters }
                + memory.optimizer
                + memory.kept
                + memory.average,
            checkpoints: kept,
            available: grades_fs::free(&config.output_dir),
        }
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
            DiskPlan { available: Some(9_999), ..DiskPlan::of(&config, &memory, 100, 10, 10) }
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
        assert!(plan(&["save_steps=2"]).check(Path::new("run")).is_ok());
        let error = plan(&["save_steps=1"]).check(Path::new("run")).unwrap_err().to_string();
        assert!(
            error.starts_with("run: ") && error.contains("save_total_limit") && error.contains("output_dir"),
            "{error}"
        );
    }
}
