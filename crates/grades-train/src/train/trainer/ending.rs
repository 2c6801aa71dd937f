//! How a run ends: at its weights or at their average.

use std::ops::Range;
use std::time::Instant;

use grades::StopReason;
use grades_report::record::RunEvent;
use grades_tensor::{executed, labels_of};

use super::validating::{loss_of, mean_of_rows};
use super::{Outcome, Trained, Trainer};
use crate::train::average::Average;
use crate::train::error::TrainError;
use crate::train::ledger::Ledger;
use crate::train::preference::Objective;
use crate::train::prefix_cache::Set;
use crate::train::state::TrainState;
use crate::train::validation::Validation;

/// Steps at which an average of the weights is compared with the weights: two forward passes each, 1 % of a run of 250 steps.
pub(in crate::train) const COMPARED: usize = 4;

impl Trainer<'_> {
    /// Compares the average with the weights over the batches of each of the next steps `steps`, counted from 0, where these are not known yet: on
    /// samples that were trained on before, the weights that have just seen them would look better than they are.
    pub(super) fn compare_average(&mut self, steps: Range<usize>) -> Result<(), TrainError> {
        if self.state.average.is_none() {
            return Ok(());
        }
        let (clock, before) = (Instant::now(), executed());
        for step in steps {
            let next = Validation::from(self.feed.unseen(step..step + 1)?);
            if next.batches.is_empty() {
                continue;
            }
            let raw = self.loss_over(&next)?;
            let averaged = self.with_average(|trainer| trainer.loss_over(&next))?;
            if let (Some(average), Some(averaged)) = (&mut self.state.average, averaged) {
                average.compared.push([averaged, raw]);
            }
        }
        self.state.ledger.monitor_flops += executed().since(&before).total();
        self.state.ledger.monitored(clock, self.state.ledger.validation_seconds);
        Ok(())
    }

    fn loss_over(&mut self, next: &Validation) -> Result<f64, TrainError> {
        let (model, reader) = (&self.state.model, &mut self.reader);
        if let Objective::Preference(preferences) = &self.objective {
            let judged = mean_of_rows(next.batches.iter().map(|batch| {
                let inputs = reader.read(model, batch)?;
                let rows = preferences.rows(Set::Train, batch);
                Ok((preferences.evaluate(model, Set::Train, batch, None, &inputs), rows))
            }));
            return Ok(judged?.map_or(f64::NAN, |(loss, _)| loss));
        }
        let losses = next.losses(|batch| {
            Ok(loss_of(&model.log_likelihoods(&reader.read(model, batch)?, &labels_of(&batch.targets))))
        })?;
        Ok(losses.all.unwrap_or(f64::NAN))
    }

    /// Ends with the average of the weights, unless it is known to be worse. Returns whether it does; what is not taken stays
    /// in the average.
    pub(super) fn end_with_average(&mut self) -> Result<bool, TrainError> {
        let step = self.state.ledger.steps;
        if self.state.average.as_ref().is_some_and(|average| average.compared.is_empty()) {
            self.compare_average(step..step + COMPARED)?;
        }
        let TrainState { average, model, .. } = &mut self.state;
        let Some(average) = average.as_mut().filter(|average| average.is_of_something()) else { return Ok(false) };
        let is_worse = average.is_worse();
        if !is_worse {
            average.swap(model.parameters_mut());
        }
        let count = average.compared.len() as f64;
        let [averaged, raw] = [0, 1].map(|of| average.compared.iter().map(|pair| pair[of]).sum::<f64>() / count);
        let reason = match (average.compared.is_empty(), is_worse) {
            (true, _) => "the run ends with the average of its weights".to_owned(),
            (false, false) => format!(
                "the run ends with the average of its weights, whose loss on batches not yet seen is {averaged:.4}; that of \
                 the weights themselves is {raw:.4}{}",
                if averaged < raw { "" } else { ", which may be chance" }
            ),
            (false, true) => format!(
                "the run ends with its weights, whose loss on batches not yet seen is {raw:.4}; that of their average is \
                 {averaged:.4}"
            ),
        };
        self.note(RunEvent::WeightAverage { step, reason })?;
        Ok(!is_worse)
    }

    /// What a run came to, with the validation loss of its end.
    pub(super) fn finish(mut self, stopped: Option<StopReason>) -> Result<Trained, TrainError> {
        let averaged = self.end_with_average()?;
        // For the record alone: no method asked for it, so no method is charged with it.
        let charged = self.state.ledger.clone();
        let at_end = self.validate()?;
        let (best_step, val_loss) = self.end_with_best(at_end)?;
        let eval_tasks = self.evaluate(self.state.ledger.steps)?.and_then(|(scores, _)| scores);
        let checks = self.state.policy.cost();
        let Ledger { evaluation_seconds, evaluation_flops, .. } = self.state.ledger;
        let mut ledger = charged;
        (ledger.evaluation_seconds, ledger.evaluation_flops) = (evaluation_seconds, evaluation_flops);
        ledger.monitor_flops += checks.operations;
        if let Some(loss) = at_end.filter(|_| self.validated_at != ledger.steps) {
            self.dir.final_validation(ledger.steps, ledger.seconds, loss)?;
        }
        if let Some(scores) = &eval_tasks {
            self.dir.final_scores(ledger.steps, ledger.seconds, scores)?;
        }
        let left = self.state.average.filter(Average::is_of_something);
        let outcome = Outcome { ledger, stopped, val_loss, val_losses: self.val_losses, eval_tasks, checks, best_step };
        Ok(Trained { model: self.state.model, outcome, left, averaged })
    }
}
