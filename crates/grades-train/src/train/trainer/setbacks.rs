//! What comes between the steps: checkpoints, signals, and numbers that are none.

use std::time::Instant;

use grades::StopReason;
use grades_report::record::{Event, RunEvent, Step};

use super::Trainer;
use crate::config::OnNonfinite;
use crate::data::Batch;
use crate::train::checkpoint::{self, Snapshot};
use crate::train::checkpoints;
use crate::train::error::{Nonfinite, TrainError};
use crate::train::pushing::{Failed, Pusher};

impl Trainer<'_> {
    /// Begins to write a checkpoint; one that must be `whole` also where others hold the model alone.
    pub(super) fn save_checkpoint(&mut self, whole: bool) -> Result<(), TrainError> {
        let (step, planned) = (self.state.ledger.steps, self.options.schedule.total_steps);
        let path = checkpoint::folder(self.dir.path(), step);
        self.dir.event(&Event::Run(RunEvent::Checkpoint { step, path }))?;
        let best = self.state.ledger.best.map(|best| best.step);
        if let Some(save) = self.save_model.filter(|_| self.options.save_only_model && !whole) {
            let model = &self.state.model;
            let written = self.checkpoints.write_model(step, best, |folder| save(model, folder));
            return self.without_checkpoint(written);
        }
        let snapshot = Snapshot::of(&self.state, planned)?;
        // A log that lacks lines would have a hole where the run goes on from this checkpoint.
        let begun = self.dir.logs().and_then(|logs| self.checkpoints.write(snapshot, best, logs));
        self.without_checkpoint(begun)
    }

    /// Goes on where a checkpoint could not be written: those before it are as they were.
    pub(super) fn without_checkpoint(&mut self, written: Result<(), TrainError>) -> Result<(), TrainError> {
        let Err(error) = written else { return Ok(()) };
        let reason = format!("{error}; training goes on, and earlier checkpoints are as they were");
        self.note(RunEvent::CheckpointFailed { step: self.state.ledger.steps, reason })
    }

    /// Has the model as it is after `step`, and its checkpoint, sent to the Hub, where that is asked for.
    pub(super) fn push_saved(&mut self, step: usize) -> Result<(), TrainError> {
        let (Some(pusher), Some(save)) = (&mut self.pusher, self.save_model) else { return Ok(()) };
        let taken = pusher.take(step, |folder| save(&self.state.model, folder));
        self.not_sent(taken.err().map(|error| (step, error.to_string())))
    }

    /// Lets the pusher have the last checkpoint before another is written.
    pub(super) fn push_written(&mut self) -> Result<(), TrainError> {
        if self.pusher.is_none() {
            return Ok(());
        }
        let written = self.checkpoints.wait();
        self.without_checkpoint(written)?;
        self.push()
    }

    /// Lets the pusher go on.
    pub(super) fn push(&mut self) -> Result<(), TrainError> {
        let Some(pusher) = &mut self.pusher else { return Ok(()) };
        let step = self.state.ledger.steps;
        let taken = if self.checkpoints.is_writing() { Ok(()) } else { pusher.written() };
        let failed = pusher.go_on();
        self.not_sent(taken.err().map(|error| (step, error.to_string())))?;
        self.not_sent(failed)
    }

    /// Has all that waits sent, unless a signal ends that.
    pub(super) fn push_rest(&mut self) -> Result<(), TrainError> {
        self.push()?;
        let interrupt = &self.interrupt;
        let finish = |pusher: &mut Pusher| pusher.finish(|| interrupt.heard().is_some());
        let failed = self.pusher.as_mut().map_or_else(Vec::new, finish);
        failed.into_iter().try_for_each(|failed| self.not_sent(Some(failed)))
    }

    fn not_sent(&mut self, failed: Option<Failed>) -> Result<(), TrainError> {
        let Some((of, reason)) = failed else { return Ok(()) };
        let reason = format!("what was saved after step {of} did not get to the Hub: {reason}");
        self.note(RunEvent::UploadFailed { step: self.state.ledger.steps, reason })
    }

    /// The end that a signal asked for, once the checkpoint is there.
    pub(super) fn interrupted(&mut self, signal: i32) -> TrainError {
        self.progress.finish_and_clear();
        let step = self.state.ledger.steps;
        match self.checkpoints.wait() {
            Ok(()) => TrainError::Interrupted { signal, step, checkpoint: checkpoint::folder(self.dir.path(), step) },
            Err(error) => error,
        }
    }

    /// A step that changes nothing, as a number of it is not finite; the end of training where the config says so.
    pub(super) fn without_update(
        &mut self,
        step: usize,
        found: Nonfinite,
        value: f64,
        (batches, clock): (&[Batch], Instant),
    ) -> Result<Option<StopReason>, TrainError> {
        let samples: Vec<String> = batches.iter().flat_map(|batch| &batch.samples).map(ToString::to_string).collect();
        let samples = samples.join(", ");
        if self.options.on_nonfinite == OnNonfinite::Stop {
            let _ = self.checkpoints.wait();
            let checkpoint = checkpoints::latest(self.dir.path(), usize::MAX);
            return Err(TrainError::Nonfinite { step, found, value, samples, checkpoint });
        }
        self.state.ledger.pass_over(step);
        let reason = format!("the {} is {value}, so nothing was updated; samples {samples}", found.name());
        self.note(RunEvent::StepSkipped { step, reason })?;
        let tokens: u64 = batches.iter().map(|batch| batch.ids.len() as u64).sum();
        let step_seconds = self.state.ledger.count_step(clock, 0.0, tokens);
        let (tokens, seconds) = (self.state.ledger.tokens, self.state.ledger.seconds);
        let learning_rate = self.options.schedule.rate(step - 1);
        let frozen_units = self.state.policy.frozen().len();
        self.log(&Step { step, learning_rate, tokens, seconds, step_seconds, frozen_units, ..Step::default() })?;
        Ok(None)
    }
}
