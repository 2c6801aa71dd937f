//! Log-likelihoods of choices, and the accuracies that follow from them.

use std::error::Error;

use grades_report::record::Answer;
use rayon::prelude::*;
use serde::Serialize;

use super::request::{Batch, Request, batches};
use super::task::{Question, Task};
use crate::data::{DataError, Encode};

/// What the evaluation needs from a model.
pub trait LogLikelihood {
    /// The natural logarithm of the probability of each label of `batch` after the token of its row and those before it,
    /// `[labels]`.
    ///
    /// # Errors
    /// The model cannot compute it.
    fn log_likelihoods(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError>;
}

/// Why a model failed.
pub type ModelError = Box<dyn Error + Send + Sync>;

/// Limits of the evaluation.
#[derive(Clone, Copy, Debug)]
pub struct ScoreOptions {
    /// The most tokens that the model reads at once; longer questions lose their beginning.
    pub max_length: usize,
    /// Tokens of a batch, unless a single question has more. Changes speed and memory, and results only by rounding.
    pub batch_tokens: usize,
}

/// How well a task was done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TaskScore {
    /// Share of questions whose right choice is the likeliest.
    pub acc: f64,
    /// The same with each choice's log-likelihood divided by its number of characters.
    pub acc_norm: f64,
    /// Standard error of `acc`; none with a single question.
    pub acc_stderr: Option<f64>,
    /// Standard error of `acc_norm`.
    pub acc_norm_stderr: Option<f64>,
    /// Number of questions.
    pub n: usize,
    /// Tokens that the model read; what choices of one batch begin with counts once.
    pub tokens: usize,
}

/// Scores every choice of `questions`, and calls `progress` with the number of requests done after each batch.
///
/// # Errors
/// A text cannot be encoded, a choice does not fit the model, the model fails, or its output is not finite.
pub fn score(
    task: &Task,
    questions: &[Question],
    encoder: &dyn Encode,
    model: &mut dyn LogLikelihood,
    options: ScoreOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<(TaskScore, Vec<Answer>), ScoreError> {
    let failed = |index: usize, message: String| ScoreError::Question { task: task.name, index, message };
    let encode = |(index, question)| Request::new(question, encoder, options.max_length).map_err(|m| failed(index, m));
    let requests: Vec<Result<Request, _>> = questions.par_iter().enumerate().map(encode).collect();
    let requests: Vec<Request> = requests.into_iter().collect::<Result<_, _>>()?;
    let mut likelihoods: Vec<_> = requests.iter().map(|request| vec![0.0; request.choices.len()]).collect();
    let (mut tokens, mut done) = (0, 0);
    for batch in batches(&requests, options.batch_tokens) {
        let values = model.log_likelihoods(&batch).map_err(|source| ScoreError::Model { task: task.name, source })?;
        if values.len() != batch.labels.len() {
            return Err(ScoreError::Count { expected: batch.labels.len(), found: values.len() });
        }
        for choice in &batch.choices {
            let sum: f64 = choice.labels.iter().map(|&label| f64::from(values[label])).sum();
            if !sum.is_finite() {
                let message = format!("the model gives a log-likelihood of {sum}; its weights may be damaged");
                return Err(failed(choice.question, message));
            }
            likelihoods[choice.question][choice.number] = sum;
        }
        tokens += batch.ids.len();
        done += batch.choices.len();
        progress(done);
    }
    let scores: Vec<Answer> = questions
        .iter()
        .zip(likelihoods)
        .enumerate()
        .map(|(index, (question, likelihoods))| judge(task, index, question, likelihoods))
        .collect();
    Ok((summary(&scores, tokens), scores))
}

fn judge(task: &Task, index: usize, question: &Question, loglikelihoods: Vec<f64>) -> Answer {
    let by_character: Vec<f64> = loglikelihoods
        .iter()
        .zip(&question.choices)
        .map(|(likelihood, choice)| likelihood / choice.chars().count() as f64)
        .collect();
    let right = |values: &[f64]| u8::from(argmax(values) == Some(question.target));
    Answer {
        task: task.name.to_owned(),
        index,
        target: question.target,
        acc: right(&loglikelihoods),
        acc_norm: right(&by_character),
        loglikelihoods,
    }
}

/// The first of the largest values, as numpy's.
fn argmax(values: &[f64]) -> Option<usize> {
    values
        .iter()
        .enumerate()
        .fold(None, |best, (index, value)| match best {
            Some((_, largest)) if *value <= largest => best,
            _ => Some((index, *value)),
        })
        .map(|(index, _)| index)
}

fn summary(scores: &[Answer], tokens: usize) -> TaskScore {
    let (acc, acc_stderr) = mean(scores.iter().map(|score| score.acc));
    let (acc_norm, acc_norm_stderr) = mean(scores.iter().map(|score| score.acc_norm));
    TaskScore { acc, acc_norm, acc_stderr, acc_norm_stderr, n: scores.len(), tokens }
}

/// The mean and its standard error, from the sample's deviation (n − 1).
fn mean(hits: impl ExactSizeIterator<Item = u8>) -> (f64, Option<f64>) {
    let n = hits.len() as f64;
    let mean = hits.map(f64::from).sum::<f64>() / n.max(1.0);
    // Of zeros and ones the squared deviations sum up to n · mean · (1 − mean).
    let error = (n > 1.0).then(|| (mean * (1.0 - mean) / (n - 1.0)).sqrt());
    (mean, error)
}

/// What can go wrong when a task is scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The task's data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A question cannot be scored.
    #[error("{task}, question {index}: {message}")]
    Question {
        /// The task's name.
        task: &'static str,
        /// The question's row, counted from 0.
        index: usize,
        /// What is wrong.
        message: String,
    },
    /// The model failed.
    #[error("{task}: the model failed ({source})")]
    Model {
        /// The task's name.
        task: &'static str,
        /// Why.
        source: ModelError,
    },
    /// The model answered with another number of values than there are labels.
    #[error("the model gave {found} log-likelihoods for {expected} labels")]
    Count {
        /// Labels of the batch.
        expected: usize,
        /// Values of the model.
        found: usize,
    },
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
