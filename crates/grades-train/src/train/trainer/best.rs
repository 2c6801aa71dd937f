//! Which checkpoint is the best, and a run that ends with it.

use grades_report::record::RunEvent;

use super::Trainer;
use crate::config::{BestMetric, Saves};
use crate::train::checkpoint::folder;
use crate::train::error::TrainError;
use crate::train::ledger::{Best, Exact};
use crate::train::resume::restore_weights;

impl Trainer<'_> {
    /// Whether the config asks for a validation after a step.
    pub(super) fn validates(&self, step: usize) -> bool {
        self.options.eval_steps.is_some_and(|every| step.is_multiple_of(every))
    }

    /// Whether a checkpoint is written after a step that has been made.
    pub(super) fn saves(&self, step: usize) -> bool {
        let planned = self.options.schedule.total_steps;
        let is_best = || self.state.ledger.best.is_some_and(|best| best.step == step);
        step < planned
            && match &self.options.saves {
                Saves::Best => self.judges(step).is_some() && is_best(),
                saves => saves.due(step, planned),
            }
    }

    /// What a step is judged by as a candidate for the best checkpoint, where it is one. A checkpoint that a signal asked for is none,
    /// so that a run which is interrupted chooses as one that was not.
    pub(super) fn judges(&self, step: usize) -> Option<BestMetric> {
        let planned = self.options.schedule.total_steps;
        let is_candidate = match &self.options.saves {
            Saves::Best => self.validates(step),
            saves => saves.due(step, planned),
        };
        self.options.best_model.filter(|_| is_candidate && step < planned).map(|best| best.metric)
    }

    /// Remembers a step that is better than the best so far.
    pub(super) fn judge(&mut self, step: usize, val_loss: Option<f64>) {
        let (Some(metric), Some(best)) = (self.judges(step), self.options.best_model) else { return };
        let ledger = &mut self.state.ledger;
        let value = match metric {
            BestMetric::EvalLoss => val_loss,
            BestMetric::TrainLoss => ledger.recent_loss(step),
        };
        ledger.judged_at(step);
        let Some(value) = value.filter(|value| !value.is_nan()) else { return };
        if ledger.best.is_none_or(|before| best.is_better(value, before.value.0)) {
            ledger.best = Some(Best { step, metric, value: Exact(value) });
        }
    }

    /// Ends with the best checkpoint, where the config says so and the last weights, of validation loss `at_end`, are not better.
    /// The checkpoint's step, if so, and the validation loss of what the run ends with.
    pub(super) fn end_with_best(&mut self, at_end: Option<f64>) -> Result<(Option<usize>, Option<f64>), TrainError> {
        let step = self.state.ledger.steps;
        let (Some(model), Some(best)) =
            (self.options.best_model.filter(|model| model.load_at_end), self.state.ledger.best)
        else {
            return Ok((None, at_end));
        };
        let last = match model.metric {
            BestMetric::EvalLoss => at_end,
            BestMetric::TrainLoss => self.state.ledger.recent_loss(step),
        };
        let name = model.metric.name();
        let is_last = last.is_some_and(|last| model.is_better(last, best.value.0));
        let folder = folder(self.dir.path(), best.step);
        let damage = if is_last { None } else { grades_fs::verify(&folder).err() };
        let of_last = last.map_or("is not known".to_owned(), |last| format!("is {last:.4}"));
        let reason = if is_last {
            format!(
                "the run ends with its last weights, whose {name} {of_last}; that of the best checkpoint, after step {}, is {:.4}",
                best.step, best.value.0
            )
        } else if let Some(damage) = &damage {
            format!(
                "{}: the best checkpoint cannot be used, as {damage}; the run ends with its last weights, whose {name} {of_last}",
                folder.display()
            )
        } else {
            format!(
                "the run ends with its best checkpoint, after step {}, whose {name} is {:.4}; that of the last weights {of_last}",
                best.step, best.value.0
            )
        };
        if is_last || damage.is_some() {
            self.note(RunEvent::BestModel { step, reason })?;
            return Ok((None, at_end));
        }
        restore_weights(&folder, &mut self.state.model)?;
        self.cache.clear();
        self.reader.cache().clear();
        self.note(RunEvent::BestModel { step, reason })?;
        // Those by set are of the last weights.
        self.val_losses = None;
        let val_loss = match model.metric {
            BestMetric::EvalLoss => Some(best.value.0),
            BestMetric::TrainLoss => self.validate()?,
        };
        Ok((Some(best.step), val_loss))
    }
}
