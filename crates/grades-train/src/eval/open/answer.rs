//! Asking a model: prompts in batches, and what it writes.

use rayon::prelude::*;

use super::OpenQuestion;
use crate::data::{Encode, Tokenized, Vision, prompt};
use crate::eval::score::{ModelError, ScoreError};
use crate::loaded::Loaded;

/// What the questions need of a model.
pub trait Answering {
    /// What it writes to each of some prompts, up to `max_new_tokens` tokens each: the text, and the number of its tokens.
    ///
    /// # Errors
    /// The model cannot answer.
    fn answers(&mut self, prompts: &[Tokenized], max_new_tokens: usize) -> Result<Vec<(String, usize)>, ModelError>;
}

impl Answering for Loaded {
    fn answers(&mut self, prompts: &[Tokenized], max_new_tokens: usize) -> Result<Vec<(String, usize)>, ModelError> {
        let all = Self::answers(self, prompts, max_new_tokens)?;
        Ok(all.into_iter().map(|one| (one.text, one.tokens.len())).collect())
    }
}

/// Limits of asking.
#[derive(Clone, Copy, Debug)]
pub struct AskOptions {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Tokens of the prompts of a batch, unless a single one has more. Changes speed and memory, and answers only by rounding.
    pub batch_tokens: usize,
    /// Most prompts of a batch.
    pub batch_prompts: usize,
}

/// What a model answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Each answer, without white space around it.
    pub texts: Vec<String>,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens of the answers.
    pub written_tokens: usize,
}

/// The questions as the model reads them.
///
/// # Errors
/// A picture cannot be read, or the chat template refuses a question.
pub fn prompts(
    task: &'static str,
    questions: &[OpenQuestion],
    encoder: &dyn Encode,
    vision: Option<&Vision>,
) -> Result<Vec<Tokenized>, ScoreError> {
    let of = |(index, question): (usize, &OpenQuestion)| {
        prompt(&question.asked, encoder, vision, &question.place).map_err(|message| ScoreError::Question {
            task,
            index,
            message: format!("{}: {message}", question.place),
        })
    };
    let all: Vec<Result<Tokenized, _>> = questions.par_iter().enumerate().map(of).collect();
    all.into_iter().collect()
}

/// Asks in batches, in the order of the prompts, and calls `progress` with the number of answers after each.
///
/// # Errors
/// The model fails.
pub fn ask(
    task: &'static str,
    prompts: &[Tokenized],
    model: &mut dyn Answering,
    options: AskOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Said, ScoreError> {
    let mut said = Said::default();
    while said.texts.len() < prompts.len() {
        let rest = &prompts[said.texts.len()..];
        let mut tokens = 0;
        let fits = |prompt: &&Tokenized| {
            tokens += prompt.ids.len();
            tokens <= options.batch_tokens
        };
        let count = rest.iter().take(options.batch_prompts).take_while(fits).count().max(1);
        let answers = model
            .answers(&rest[..count], options.max_new_tokens)
            .map_err(|source| ScoreError::Model { task, source })?;
        if answers.len() != count {
            return Err(ScoreError::Count { expected: count, found: answers.len() });
        }
        said.prompt_tokens += rest[..count].iter().map(|prompt| prompt.ids.len()).sum::<usize>();
        for (text, tokens) in answers {
            said.written_tokens += tokens;
            said.texts.push(text.trim().to_owned());
        }
        progress(said.texts.len());
    }
    Ok(said)
}
