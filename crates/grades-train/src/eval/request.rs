//! Questions as tokens, and batches of them in which whatever several choices begin with is read once.

use std::cmp::Reverse;

use grades_tensor::{Label, Layout};

use super::task::Question;
use crate::data::{Around, Encode};

/// A context and its continuation as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) ids: Vec<u32>,
    /// How many of them are the context's; the others are scored.
    pub(super) context: usize,
}

impl Sequence {
    /// What the model reads: the last token is only asked for.
    fn read(&self) -> &[u32] {
        self.ids.split_last().map_or(&[], |(_, read)| read)
    }
}

/// A question as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Each choice behind its context.
    pub(super) choices: Vec<Sequence>,
    /// Tokens that the model reads for it, of each beginning once.
    tokens: usize,
}

impl Request {
    /// # Errors
    /// A sentence: a text cannot be encoded, or a choice does not fit into `max_length` tokens.
    pub(super) fn new(question: &Question, encoder: &dyn Encode, max_length: usize) -> Result<Self, String> {
        let mut choices = Vec::with_capacity(question.choices.len());
        // The last context, of which most questions have only one, and its tokens.
        let mut before: Option<(&str, Vec<u32>)> = None;
        for (index, choice) in question.choices.iter().enumerate() {
            let context = question.context(index);
            let (_, beginning) = match before.take().filter(|(of, _)| *of == context) {
                Some(before) => before,
                None => (context, beginning(context, encoder)?),
            };
            choices.push(sequence(context, &beginning, choice, encoder, max_length)?);
            before = Some((context, beginning));
        }
        let mut reads: Vec<&[u32]> = choices.iter().map(Sequence::read).collect();
        reads.sort_unstable();
        let shared: usize = reads.windows(2).map(|pair| common_len(pair[0], pair[1])).sum();
        let tokens = reads.iter().map(|read| read.len()).sum::<usize>() - shared;
        Ok(Self { choices, tokens })
    }

    /// What the model reads for the choice that is first in the order of tokens.
    fn first(&self) -> &[u32] {
        self.choices.iter().map(Sequence::read).min().unwrap_or_default()
    }

    /// Tokens that the model would read if nothing were shared.
    fn whole(&self) -> usize {
        self.choices.iter().map(|choice| choice.read().len()).sum()
    }
}

fn common_len(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn encode(text: &str, around: Around, encoder: &dyn Encode) -> Result<Vec<u32>, String> {
    let encoded = encoder.encode(text, around).map_err(|error| format!("the text cannot be encoded ({error})"))?;
    Ok(encoded.ids)
}

/// The tokens of a context as lm-evaluation-harness encodes it: those that it has alone, without white space at its end, which
/// goes over to the continuation.
pub(super) fn beginning(context: &str, encoder: &dyn Encode) -> Result<Vec<u32>, String> {
    match encoder.bos_id().or(encoder.eos_id()) {
        _ if !context.is_empty() => encode(context.trim_end(), Around::Beginning, encoder),
        Some(start) => Ok(vec![start]),
        None => Err("the question has no text, and the model no token to begin a text with".to_owned()),
    }
}

/// One choice behind its context, whose tokens are `beginning`. Those of the continuation are what the whole text has beyond as
/// many. If the model would have to read more than `max_length`, the beginning is cut off.
pub(super) fn sequence(
    context: &str,
    beginning: &[u32],
    choice: &str,
    encoder: &dyn Encode,
    max_length: usize,
) -> Result<Sequence, String> {
    let around = if context.is_empty() { Around::Template } else { Around::Beginning };
    let whole = encode(&format!("{context} {choice}"), around, encoder)?;
    let continuation = if context.is_empty() { &whole } else { whole.get(beginning.len()..).unwrap_or_default() };
    if beginning.is_empty() || continuation.is_empty() {
        return Err("the question or one of its choices has no tokens; correct the row".to_owned());
    }
    if continuation.len() > max_length {
        return Err(format!(
            "a choice has {} tokens, more than the {max_length} that the model reads; leave the question out",
            continuation.len()
        ));
    }
    let excess = (beginning.len() + continuation.len() - 1).saturating_sub(max_length);
    let beginning = &beginning[excess..];
    Ok(Sequence { ids: [beginning, continuation].concat(), context: beginning.len() })
}

/// Questions for one pass of the model, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The tokens, `[tokens]`.
    pub ids: Vec<u32>,
    /// Which token sees which. What several choices begin with is there once.
    pub layout: Layout,
    /// The tokens that are asked for, in the order of their rows, each once.
    pub labels: Vec<Label>,
    /// The choices, in the order of their tokens.
    pub choices: Vec<Choice>,
}

/// A choice in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its question, counted from 0.
    pub question: usize,
    /// Which of the question's choices it is, counted from 0.
    pub number: usize,
    /// Which labels of the batch its tokens are.
    pub labels: Vec<usize>,
}

impl Batch {
    fn new(requests: &[Request], questions: &[usize]) -> Self {
        let of = |&question: &usize| {
            requests[question].choices.iter().enumerate().map(move |(number, sequence)| (sequence, question, number))
        };
        let mut sequences: Vec<_> = questions.iter().flat_map(of).collect();
        // In this order sequences that begin alike stand together, and their tokens are in depth-first order.
        sequences.sort_by_key(|(sequence, ..)| sequence.read());
        let (mut ids, mut parents, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        // The sequence before, and the rows of its tokens.
        let (mut before, mut rows): (&[u32], Vec<u32>) = (&[], Vec::new());
        for (sequence, ..) in &sequences {
            let read = sequence.read();
            rows.truncate(common_len(before, read));
            for &id in &read[rows.len()..] {
                parents.push(rows.last().copied());
                rows.push(ids.len() as u32);
                ids.push(id);
            }
            before = read;
            let scored = rows[sequence.context - 1..].iter().zip(&sequence.ids[sequence.context..]);
            asked.push(scored.map(|(&row, &token)| Label { row, token }).collect::<Vec<_>>());
        }
        let mut labels = asked.concat();
        labels.sort_unstable();
        labels.dedup();
        let choice = |((_, question, number), asked): (_, Vec<Label>)| {
            let place = |label| labels.binary_search(label).unwrap_or_else(|place| place);
            Choice { question, number, labels: asked.iter().map(place).collect() }
        };
        let choices = sequences.into_iter().zip(asked).map(choice).collect();
        Self { ids, layout: Layout::tree(&parents), labels, choices }
    }
}

/// How many times as many keys as tokens a batch may have: those of a beginning are repeated for every choice.
const MOST_KEYS: usize = 8;

/// Batches of about `tokens` tokens, largest first, so that memory runs out early if at all. Questions that begin alike stand
/// together.
pub(super) fn batches(requests: &[Request], tokens: usize) -> impl Iterator<Item = Batch> {
    #[derive(Default)]
    struct Group {
        questions: Vec<usize>,
        tokens: usize,
        keys: usize,
    }
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_cached_key(|&question| requests[question].first());
    let mut groups: Vec<Group> = Vec::new();
    let mut before: &[u32] = &[];
    for question in order {
        let (request, keys) = (&requests[question], requests[question].whole());
        let shared = common_len(before, request.first());
        let fits = |group: &&mut Group| {
            group.tokens + request.tokens - shared <= tokens && group.keys + keys <= tokens.saturating_mul(MOST_KEYS)
        };
        match groups.last_mut().filter(fits) {
            Some(group) => {
                group.questions.push(question);
                group.tokens += request.tokens - shared;
                group.keys += keys;
            }
            None => groups.push(Group { questions: vec![question], tokens: request.tokens, keys }),
        }
        before = request.first();
    }
    groups.sort_by_key(|group| Reverse(group.tokens));
    groups.into_iter().map(|group| Batch::new(requests, &group.questions))
}
