//! Makes the runs of a comparison or a sweep, one after the other, and puts each where it belongs.

use super::finished::Finished;
use super::folder::Folder;
use super::job::{ScoredModel, Worker};
use super::outcome::{Comparison, Failure};
use super::planned_run::PlannedRun;
use super::questions::Questions;
use crate::config::{Config, Init};

/// The directory of what the model answers before any training.
const BASE: &str = "base";

/// What runs are made with.
pub(super) struct Maker<'a, 'b> {
    pub(super) folder: &'a Folder,
    pub(super) questions: &'a Questions,
    pub(super) work: &'a mut Worker<'b>,
    /// Gets a line about each run.
    pub(super) log: &'a mut dyn FnMut(&str),
}

impl Maker<'_, '_> {
    /// Scores the model before training.
    pub(super) fn base(&mut self, comparison: &mut Comparison, base: Option<&ScoredModel>) {
        let Some(base) = base else { return };
        let folder = self.folder.path().join(BASE);
        match self.questions.answers("the model before training", base, &folder, self.work) {
            Ok(answers) => comparison.base = Some(answers),
            Err(error) => comparison.failures.push(Failure::new(BASE, &error)),
        }
    }

    /// Finishes a run; where it fails, it goes among the failures.
    pub(super) fn run(&mut self, failures: &mut Vec<Failure>, place: &str, planned: &PlannedRun) -> Option<Finished> {
        let there = if self.folder.finished(planned).is_some() { ", there already" } else { "" };
        (self.log)(&format!("{place} {}{there}", planned.name));
        match self.folder.finish(planned, self.questions, self.work) {
            Ok(finished) => {
                (self.log)(&line(&finished));
                Some(finished)
            }
            Err(error) => {
                (self.log)(&format!("  failed: {error}"));
                failures.push(Failure::new(&planned.name, &error));
                None
            }
        }
    }
}

/// The model before training, where there is one and something to ask it.
pub(super) fn base(common: &Config, questions: &Questions) -> Option<ScoredModel> {
    let pretrained = common.model.checkpoint().filter(|_| common.init == Init::Pretrained);
    let asked = pretrained.filter(|_| !questions.is_empty());
    asked.map(|model| ScoredModel {
        model: model.into(),
        adapter: None,
        load_in_4bit: false,
        image_backend: common.image_backend,
        precision: common.precision,
    })
}

fn line(Finished { summary, .. }: &Finished) -> String {
    let loss = summary.val_loss.map_or(String::new(), |loss| format!(", validation loss {loss:.4}"));
    format!("  {} of {} steps, {:.1} s{loss}", summary.steps, summary.planned_steps, summary.seconds)
}
