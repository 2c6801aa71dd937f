//! What is asked of the model between steps: prompts of the validation data, which it answers, and benchmarks.
//!
//! It reads the model that trains, where it lies, and changes nothing: pictures are read apart from those of training, and nothing is
//! drawn at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use grades_models::Decoder;
use grades_models::generate::Limits;
use grades_models::tokenizer::Tokenizer;
use grades_report::record::{Generated, Piece, TaskScores};
use grades_tensor::IGNORE_INDEX;

use super::error::TrainError;
use super::prepared::Prepared;
use super::preview::pieces;
use super::reading::Reader;
use super::vision_cache::VisionCache;
use crate::config::Config;
use crate::data::{Tokenized, Vision};
use crate::encoder::Encoder;
use crate::eval::open::{Answering, AskOptions, OpenQuestion, OpenTask, Where, ask, prompts, score as score_written};
use crate::eval::score::ModelError;
use crate::eval::{Asked, BATCH_PROMPTS, BATCH_TOKENS, Question, ScoreOptions, Task, score};
use crate::loaded::{with_end_of_turn, written};

/// What is asked.
#[derive(Debug)]
pub struct Evaluation {
    tokenizer: Arc<Tokenizer>,
    reader: Reader,
    ends: Vec<u32>,
    prompts: Vec<Prompt>,
    max_new_tokens: usize,
    benchmarks: Vec<(String, Benchmark)>,
}

/// A prompt, and what the data say to it.
#[derive(Debug)]
struct Prompt {
    tokens: Tokenized,
    text: String,
    reference: String,
}

#[derive(Debug)]
enum Benchmark {
    Choices(&'static Task, Vec<Question>),
    Written(&'static OpenTask, Vec<OpenQuestion>, Vec<Tokenized>),
}

/// What was found after a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Evaluated {
    /// The answers to the prompts.
    pub(super) generated: Vec<Generated>,
    /// The scores of the benchmarks; `None` where none are asked for.
    pub(super) scores: Option<TaskScores>,
}

impl Evaluation {
    /// What a config asks for; `None` where that is nothing. Benchmarks are read, and fetched where they are not here.
    ///
    /// # Errors
    /// A benchmark cannot be read, its questions cannot become prompts, or two have the same name.
    pub(super) fn of(prepared: &Prepared) -> Result<Option<Self>, TrainError> {
        let Prepared { config, tokenizer, vision, validation, .. } = prepared;
        if config.generate_samples == 0 && config.eval_tasks.is_empty() {
            return Ok(None);
        }
        let prompts = validation.asked.iter().filter_map(|sample| Prompt::of(sample, tokenizer)).collect();
        let ends = with_end_of_turn(prepared.source.end_tokens(tokenizer)?, tokenizer)?;
        Ok(Some(Self {
            benchmarks: benchmarks(config, tokenizer, prepared.vocab_size, vision.as_deref())?,
            tokenizer: tokenizer.clone(),
            reader: Reader::new(vision.clone(), VisionCache::off()),
            ends,
            prompts,
            max_new_tokens: config.generation_max_new_tokens(),
        }))
    }

    /// Asks the model as it is after `step`.
    pub(super) fn ask(&mut self, step: usize, model: &mut Decoder) -> Result<Evaluated, TrainError> {
        let Self { tokenizer, reader, ends, prompts, max_new_tokens, benchmarks } = self;
        let tokens: Vec<Tokenized> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        let mut writer = Writer { model, tokenizer, reader, ends };
        let said = ask("generate_samples", &tokens, &mut writer, options(*max_new_tokens), &mut |_| ());
        let said = said.map_err(other)?;
        let generated = (0..).zip(prompts.iter().zip(said.texts)).map(|(prompt_index, (prompt, answer))| Generated {
            step,
            prompt_index,
            prompt: prompt.text.clone(),
            answer,
            reference: prompt.reference.clone(),
        });
        let generated = generated.collect();
        let mut scores = TaskScores::new();
        for (name, benchmark) in benchmarks.iter() {
            scores.insert(name.clone(), benchmark.score(Writer { model, tokenizer, reader, ends })?);
        }
        Ok(Evaluated { generated, scores: Some(scores).filter(|scores| !scores.is_empty()) })
    }

    /// The seconds that asking once takes, by all prompts and some questions of each benchmark, spread over it.
    pub(super) fn seconds(mut self, model: &mut Decoder) -> Result<f64, TrainError> {
        let benchmarks = std::mem::take(&mut self.benchmarks);
        let clock = Instant::now();
        self.ask(0, model)?;
        let mut seconds = clock.elapsed().as_secs_f64();
        let Self { tokenizer, reader, ends, .. } = &mut self;
        for (_, benchmark) in benchmarks {
            let all = benchmark.questions();
            let some = benchmark.every(all.div_ceil(TIMED).max(1));
            let clock = Instant::now();
            some.score(Writer { model, tokenizer, reader, ends })?;
            seconds += clock.elapsed().as_secs_f64() * all as f64 / some.questions().max(1) as f64;
        }
        Ok(seconds)
    }
}

/// Questions of a benchmark that tell, at most, how long all of them take.
const TIMED: usize = 32;

fn other(error: impl ToString) -> TrainError {
    TrainError::Other(error.to_string())
}

fn options(max_new_tokens: usize) -> AskOptions {
    AskOptions { max_new_tokens, batch_tokens: BATCH_TOKENS, batch_prompts: BATCH_PROMPTS }
}

fn benchmarks(
    config: &Config,
    tokenizer: &Tokenizer,
    vocab_size: usize,
    vision: Option<&Vision>,
) -> Result<Vec<(String, Benchmark)>, TrainError> {
    let at = Where { limit: config.eval_tasks_limit, ..Where::default() };
    let mut all: Vec<(String, Benchmark)> = Vec::new();
    for asked in &config.eval_tasks {
        let found = Asked::find(asked, &at)?;
        let name = found.name(asked);
        if all.iter().any(|(other, _)| *other == name) {
            let problem =
                format!("`eval_tasks` has two of the name {name}; remove one of them, or give its file another name");
            return Err(TrainError::Other(problem));
        }
        let benchmark = match found {
            Asked::Choices(task, questions) => Benchmark::Choices(task, questions),
            Asked::Open(task, questions) => {
                let encoder = Encoder::new(tokenizer, vocab_size);
                let prompts = prompts(task.name, &questions, &encoder, vision).map_err(other)?;
                Benchmark::Written(task, questions, prompts)
            }
        };
        all.push((name, benchmark));
    }
    Ok(all)
}

impl Benchmark {
    fn questions(&self) -> usize {
        match self {
            Self::Choices(_, questions) => questions.len(),
            Self::Written(_, questions, _) => questions.len(),
        }
    }

    /// The first of each `step` of its questions.
    fn every(self, step: usize) -> Self {
        match self {
            Self::Choices(task, questions) => Self::Choices(task, questions.into_iter().step_by(step).collect()),
            Self::Written(task, questions, prompts) => Self::Written(
                task,
                questions.into_iter().step_by(step).collect(),
                prompts.into_iter().step_by(step).collect(),
            ),
        }
    }

    /// Its scores, as `grades eval` has them.
    fn score(&self, mut writer: Writer<'_>) -> Result<BTreeMap<String, f64>, TrainError> {
        match self {
            Self::Choices(task, questions) => {
                let Writer { model, tokenizer, .. } = writer;
                let sizes = model.sizes();
                let options = ScoreOptions { max_length: sizes.max_position_embeddings, batch_tokens: BATCH_TOKENS };
                let encoder = Encoder::new(tokenizer, sizes.vocab_size);
                let (score, _) = score(task, questions, &encoder, model, options, &mut |_| ()).map_err(other)?;
                Ok([("acc", score.acc), ("acc_norm", score.acc_norm)]
                    .map(|(name, value)| (name.to_owned(), value))
                    .into())
            }
            Self::Written(task, questions, prompts) => {
                let said = ask(task.name, prompts, &mut writer, options(task.max_new_tokens), &mut |_| ());
                let results = score_written(task, questions, said.map_err(other)?);
                Ok(results.score.metrics.into_iter().map(|metric| (metric.name, metric.value)).collect())
            }
        }
    }
}

/// A model that answers in writing while it trains.
struct Writer<'a> {
    model: &'a mut Decoder,
    tokenizer: &'a Tokenizer,
    reader: &'a mut Reader,
    ends: &'a [u32],
}

impl Answering for Writer<'_> {
    fn answers(&mut self, prompts: &[Tokenized], max_new_tokens: usize) -> Result<Vec<(String, usize)>, ModelError> {
        let limits = Limits { max_new_tokens, stop: self.ends.to_vec() };
        let all = written(self.model, self.tokenizer, self.reader, prompts, &limits)?;
        Ok(all.into_iter().map(|one| (one.text, one.tokens.len())).collect())
    }
}

impl Prompt {
    /// What comes before the first token that is learnt; of a sample that is learnt from its beginning on its first half. `None` of one
    /// that has nothing to ask, or whose half would cut through a picture.
    fn of(sample: &Tokenized, tokenizer: &Tokenizer) -> Option<Self> {
        let len = sample.ids.len();
        let is_learnt = |at: &usize| sample.labels[*at] != IGNORE_INDEX;
        let first = (1..len).find(is_learnt)?;
        let (cut, end) = match first {
            1 => ((len / 2).max(1), len),
            first => (first, first + (first..len).take_while(is_learnt).count()),
        };
        let begun = sample.pictures.iter().filter(|picture| picture.tokens.iter().any(|run| run.start < cut));
        let pictures: Vec<_> = begun.cloned().collect();
        if !pictures.iter().all(|picture| picture.is_within(cut)) {
            return None;
        }
        let tokens = Tokenized { ids: sample.ids[..cut].to_vec(), labels: vec![IGNORE_INDEX; cut], pictures };
        let text = |piece| match piece {
            Piece::Read(text) | Piece::Learnt(text) => text,
            Piece::Picture { number, .. } => format!("⟨picture {}⟩", number + 1),
        };
        Some(Self {
            text: pieces(&tokens, tokenizer).into_iter().map(text).collect(),
            reference: tokenizer.decode(&sample.ids[cut..end], true).trim().to_owned(),
            tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_prompt_ends_where_something_is_learnt() {
        let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/texts/metaspace");
        let tokenizer = Tokenizer::from_checkpoint(texts).unwrap();
        let ids = tokenizer.encode("the fox was red and the bell rang", false).unwrap();
        let sample = |learnt: &[std::ops::Range<usize>]| {
            let label = |(at, id): (usize, &u32)| {
                if learnt.iter().any(|run| run.contains(&at)) { i64::from(*id) } else { IGNORE_INDEX }
            };
            Tokenized { labels: ids.iter().enumerate().map(label).collect(), ids: ids.clone(), ..Tokenized::default() }
        };
        let of = |learnt: &[std::ops::Range<usize>]| Prompt::of(&sample(learnt), &tokenizer);
        let decoded = |range: std::ops::Range<usize>| tokenizer.decode(&ids[range], true).trim().to_owned();
        let len = ids.len();
        assert!(len > 8, "{len}");
        // Up to the first of two answers, without the second.
        let first = of(&[3..5, 7..len]).unwrap();
        assert_eq!((&first.tokens.ids[..], &first.reference), (&ids[..3], &decoded(3..5)));
        assert_eq!(first.text.trim(), decoded(0..3));
        assert!(first.tokens.labels.iter().all(|label| *label == IGNORE_INDEX));
        // The first token has no loss in any case.
        for learnt in [0..len, 1..len] {
            let half = of(&[learnt]).unwrap();
            assert_eq!((&half.tokens.ids[..], &half.reference), (&ids[..len / 2], &decoded(len / 2..len)));
        }
        assert!(of(&[]).is_none() && of(std::slice::from_ref(&(0..1))).is_none());
    }
}
