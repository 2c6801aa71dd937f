//! Learning from preferences: what a micro-batch of answers comes to, for the model as it is beside what it was.
//!
//! A row is a pair of answers, or with KTO as many judged answers as a micro-batch has, with the same prompts and one
//! another's answers behind them. The answers of a row are in one micro-batch, segment by segment.

mod loss;
mod rows;

use std::sync::Arc;
use std::time::Instant;

use grades::Flops;
use grades_models::model::{PassOptions, Prefix, ScoredPass};
use grades_models::{Decoder, Inputs};
use grades_tensor::{Gradients, IGNORE_INDEX, executed, labels_of};

use super::prefix_cache::Set;
use crate::data::{Batch, DataError, Held, Loader};
pub use loss::{Answer, Judgement, PreferenceLoss, RewardSums};
pub use rows::Rows;

/// What a run learns from its batches.
#[derive(Clone, Debug, Default)]
pub enum Objective {
    /// Every token that has a label, alike.
    #[default]
    Tokens,
    /// Which answers are better.
    Preference(Preferences),
}

impl Objective {
    /// Those of the loader's samples that are of the data, and not put together of them.
    pub(crate) fn own<'a>(&self, samples: &'a [Held]) -> &'a [Held] {
        match self {
            Self::Preference(preferences) if !preferences.desirable[0].is_empty() => {
                &samples[..preferences.desirable[0].len().min(samples.len())]
            }
            _ => samples,
        }
    }
}

/// The log-probabilities of answers by the model as it was at the beginning, by sample; not a number where none was asked for.
type Reference = Vec<f64>;

/// A loss of preferences, with what it compares the model with.
#[derive(Clone, Debug)]
pub struct Preferences {
    loss: PreferenceLoss,
    /// With KTO of each sample of training, and of validation, whether it is desirable; those beyond are mismatched.
    desirable: [Vec<bool>; 2],
    /// For the same.
    reference: [Reference; 2],
}

/// A training pass up to the loss.
pub(crate) struct Judged<'a> {
    pass: ScoredPass<'a>,
    /// The gradient of the loss in each log-probability.
    slopes: Vec<f32>,
    /// The loss, with what balances experts.
    pub(crate) loss: f64,
    pub(crate) rewards: RewardSums,
}

impl Judged<'_> {
    /// The backward pass.
    pub(crate) fn backward(self, gradients: &mut Gradients) {
        self.pass.backward(self.slopes, gradients);
    }
}

impl Preferences {
    /// Of rows whose desirable samples of training and validation are known, where that counts.
    #[must_use]
    pub fn new(loss: PreferenceLoss, desirable: [Vec<bool>; 2]) -> Self {
        Self { loss, desirable, reference: [Vec::new(), Vec::new()] }
    }

    /// Asks `model`, as it is before its first step and without adapters, for what it makes of all answers of the first `steps`
    /// steps and of validation, if the loss compares with that; and what it took.
    ///
    /// # Errors
    /// The answers cannot be read.
    pub(crate) fn ask(
        &mut self,
        model: &Decoder,
        loader: &mut Loader,
        steps: usize,
        validation: &[Batch],
    ) -> Result<Option<(Flops, f64)>, DataError> {
        if !self.loss.needs_reference() {
            return Ok(None);
        }
        let (clock, before) = (Instant::now(), executed());
        // Every sample comes once an epoch.
        for step in 0..steps.min(loader.steps_per_epoch()) {
            for batch in loader.step(step)? {
                self.note(model, Set::Train, &batch);
            }
        }
        validation.iter().for_each(|batch| self.note(model, Set::Validation, batch));
        Ok(Some((executed().since(&before), clock.elapsed().as_secs_f64())))
    }

    fn note(&mut self, model: &Decoder, set: Set, batch: &Batch) {
        let answers = self.answers(set, batch, &self.scores(model, batch, None, &batch.inputs()));
        let reference = &mut self.reference[index(set)];
        for (&sample, answer) in batch.samples.iter().zip(&answers) {
            if reference.len() <= sample {
                reference.resize(sample + 1, f64::NAN);
            }
            reference[sample] = answer.log_probability;
        }
    }

    /// The rows of a batch that a mean is over.
    pub(crate) fn rows(&self, set: Set, batch: &Batch) -> usize {
        match self.loss {
            PreferenceLoss::Kto { .. } => self.judged(set, batch),
            _ => batch.samples.len() / 2,
        }
    }

    /// How many of a batch's segments are judged answers; those behind are mismatched.
    fn judged(&self, set: Set, batch: &Batch) -> usize {
        let own = self.desirable[index(set)].len();
        batch.samples.iter().filter(|&&sample| sample < own).count()
    }

    /// What of a batch is learnt, and so passes through the model with a record; mismatched answers do not.
    pub(crate) fn learnt(&self, batch: &Batch) -> Batch {
        match self.loss {
            PreferenceLoss::Kto { .. } => batch.part(0..self.judged(Set::Train, batch)),
            _ => batch.clone(),
        }
    }

    /// A training pass over a batch, of which `learnt` is read already; `share` is that of its rows in the step.
    pub(crate) fn pass<'a>(
        &self,
        model: &'a Decoder,
        batch: &Batch,
        (learnt, inputs): (&Batch, &Inputs),
        share: f64,
        options: PassOptions,
    ) -> Judged<'a> {
        let others = batch.part(learnt.segments.len()..batch.segments.len());
        let mut answers = Vec::new();
        if !others.segments.is_empty() {
            answers = self.answers(Set::Train, &others, &self.scores(model, &others, None, &others.inputs()));
        }
        let pass = model.scored_pass(inputs, Arc::new(self.targets(learnt)), share as f32, options);
        let scores: Vec<f64> = pass.scores().to_host().iter().map(|&score| f64::from(score)).collect();
        answers.splice(0..0, self.answers(Set::Train, learnt, &scores));
        let judgement = self.judge(Set::Train, batch, &answers);
        let slopes = self.slopes(learnt, &judgement, share);
        let loss = share * judgement.loss + pass.balance().unwrap_or(0.0);
        Judged { pass, slopes, loss, rewards: judgement.rewards }
    }

    /// What a batch comes to, without a record; above a prefix where there is one.
    pub(crate) fn evaluate(
        &self,
        model: &Decoder,
        set: Set,
        batch: &Batch,
        prefix: Option<Prefix>,
        inputs: &Inputs,
    ) -> Judgement {
        let scores = self.scores(model, batch, prefix, inputs);
        self.judge(set, batch, &self.answers(set, batch, &scores))
    }

    fn scores(&self, model: &Decoder, batch: &Batch, prefix: Option<Prefix>, inputs: &Inputs) -> Vec<f64> {
        let labels = labels_of(&self.targets(batch));
        let scores = match prefix {
            Some(prefix) => model.log_likelihoods_from(prefix, inputs, &labels),
            None => model.log_likelihoods(inputs, &labels),
        };
        scores.to_host().iter().map(|&score| f64::from(score)).collect()
    }

    /// The targets of a batch; where the prompts of chosen answers are learnt too, with these.
    fn targets(&self, batch: &Batch) -> Vec<i64> {
        let mut targets = batch.targets.clone();
        if self.loss.learns_prompts() {
            for &(start, end) in batch.segments.iter().step_by(2) {
                for row in (start..end.saturating_sub(1)).filter(|&row| batch.targets[row] == IGNORE_INDEX) {
                    targets[row] = batch.ids[row + 1].into();
                }
            }
        }
        targets
    }

    /// What the scores of a batch's labels say of each of its answers.
    fn answers(&self, set: Set, batch: &Batch, scores: &[f64]) -> Vec<Answer> {
        let targets = self.targets(batch);
        let mut scores = scores.iter();
        let answer = |(&(start, end), &sample): (&(usize, usize), &usize)| {
            let reference = self.reference[index(set)].get(sample).copied().unwrap_or(f64::NAN);
            let mut answer =
                Answer { reference: if self.loss.needs_reference() { reference } else { 0.0 }, ..Answer::default() };
            for row in (start..end).filter(|&row| targets[row] != IGNORE_INDEX) {
                let score = scores.next().copied().unwrap_or(f64::NAN);
                if batch.targets[row] == IGNORE_INDEX {
                    (answer.prompt, answer.prompt_tokens) = (answer.prompt + score, answer.prompt_tokens + 1);
                } else {
                    (answer.log_probability, answer.tokens) = (answer.log_probability + score, answer.tokens + 1);
                }
            }
            answer
        };
        batch.segments.iter().zip(&batch.samples).map(answer).collect()
    }

    fn judge(&self, set: Set, batch: &Batch, answers: &[Answer]) -> Judgement {
        if !matches!(self.loss, PreferenceLoss::Kto { .. }) {
            return self.loss.of_pairs(answers.as_chunks().0);
        }
        let (own, others) = answers.split_at(self.judged(set, batch));
        let desirable = batch.samples.iter().map(|&sample| self.desirable[index(set)].get(sample) == Some(&true));
        let own: Vec<(Answer, bool)> = own.iter().copied().zip(desirable).collect();
        self.loss.of_judged(&own, others)
    }

    /// The gradient of `share` times the loss in the log-probability of each label.
    fn slopes(&self, batch: &Batch, judgement: &Judgement, share: f64) -> Vec<f32> {
        let targets = self.targets(batch);
        let mut slopes = Vec::with_capacity(targets.len());
        for (&(start, end), of_answer) in batch.segments.iter().zip(&judgement.slopes) {
            let learnt = (start..end).filter(|&row| targets[row] != IGNORE_INDEX);
            let is_prompt = |row: usize| batch.targets[row] == IGNORE_INDEX;
            slopes.extend(learnt.map(|row| if is_prompt(row) { judgement.prompt_slope } else { *of_answer }));
        }
        slopes.into_iter().map(|slope| (share * slope) as f32).collect()
    }
}

fn index(set: Set) -> usize {
    match set {
        Set::Train => 0,
        Set::Validation => 1,
    }
}

#[cfg(test)]
mod parity;
