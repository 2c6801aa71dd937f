//! Questions as tokens, and batches of them. What the choices of a question begin with is computed once.

use std::cmp::Reverse;
use std::sync::Arc;

use grades_models::Tokens;
use grades_models::ops::Layout;

use super::task::Question;
use crate::data::{Encode, NO_LOSS};

/// Tokens that the model reads, with the one that it should say after each, or [`NO_LOSS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) ids: Vec<u32>,
    pub(super) targets: Vec<i64>,
}

impl Piece {
    fn label_count(&self) -> usize {
        self.targets.iter().filter(|target| **target != NO_LOSS).count()
    }
}

/// A question as tokens: what all its choices begin with, and how each goes on.
///
/// The common part ends where the next token of two choices differs, be it in the question, as in WinoGrande, or in the
/// choices themselves. The last token before that is read once for every choice, as each has another target there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) common: Piece,
    pub(super) rests: Vec<Piece>,
}

impl Request {
    /// # Errors
    /// A sentence: a text cannot be encoded, or a choice does not fit into `max_length` tokens.
    pub(super) fn new(question: &Question, encoder: &dyn Encode, max_length: usize) -> Result<Self, String> {
        let choices = question.choices.iter().enumerate();
        let choices = choices.map(|(index, choice)| piece(question.context(index), choice, encoder, max_length));
        let mut rests = choices.collect::<Result<Vec<_>, _>>()?;
        let shared = match rests.split_first() {
            Some((first, others)) => others.iter().map(|other| common_len(first, other)).min().unwrap_or(0),
            None => 0,
        };
        let mut common = Piece::default();
        for rest in &mut rests {
            common = Piece { ids: rest.ids.drain(..shared).collect(), targets: rest.targets.drain(..shared).collect() };
        }
        Ok(Self { common, rests })
    }

    /// Tokens that the model reads for it.
    pub(super) fn tokens(&self) -> usize {
        self.common.ids.len() + self.rests.iter().map(|rest| rest.ids.len()).sum::<usize>()
    }

    /// The log-likelihood of each choice, from those of the labels, as many of which are taken as it has.
    pub(super) fn sums(&self, mut values: impl Iterator<Item = f64>) -> Vec<f64> {
        let common: f64 = values.by_ref().take(self.common.label_count()).sum();
        let sum = |rest: &Piece| values.by_ref().take(rest.label_count()).fold(common, |sum, value| sum + value);
        self.rests.iter().map(sum).collect()
    }
}

fn common_len(one: &Piece, other: &Piece) -> usize {
    let tokens = |piece: &Piece| piece.ids.clone().into_iter().zip(piece.targets.clone());
    tokens(one).zip(tokens(other)).take_while(|(one, other)| one == other).count()
}

/// One choice as tokens, labelled from its first token on, as lm-evaluation-harness encodes it: white space at the end of
/// the context goes over to the continuation, the tokens of the context are those it has alone, and those of the
/// continuation are what the whole text has beyond as many.
pub(super) fn piece(context: &str, choice: &str, encoder: &dyn Encode, max_length: usize) -> Result<Piece, String> {
    let encode = |text: &str, special| {
        encoder.encode(text, special).map_err(|error| format!("the tokenizer cannot encode the text ({error})"))
    };
    let continuation = format!(" {choice}");
    let kept = context.trim_end();
    let (mut ids, continuation) = if context.is_empty() {
        let Some(start) = encoder.bos_id().or(encoder.eos_id()) else {
            return Err("the question has no text, and the model no token to begin a text with".to_owned());
        };
        (vec![start], encode(&continuation, false)?)
    } else {
        let whole = encode(&format!("{context}{continuation}"), true)?;
        let alone = encode(kept, true)?;
        let rest = whole.get(alone.len()..).unwrap_or_default().to_vec();
        (alone, rest)
    };
    let Some((last, read)) = continuation.split_last().filter(|_| !ids.is_empty()) else {
        return Err("the question or one of its choices has no tokens; correct the row".to_owned());
    };
    if continuation.len() > max_length {
        return Err(format!(
            "a choice has {} tokens, more than the {max_length} that the model reads; leave the question out",
            continuation.len()
        ));
    }
    // The last token is only a target.
    let mut targets = vec![NO_LOSS; ids.len() - 1];
    ids.extend(read);
    targets.extend(read.iter().chain([last]).map(|id| i64::from(*id)));
    let excess = ids.len().saturating_sub(max_length);
    ids.drain(..excess);
    targets.drain(..excess);
    Ok(Piece { ids, targets })
}

/// Questions for one pass of the model, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The tokens, `[tokens]`.
    pub ids: Vec<u32>,
    /// For each token the one that should follow it, or [`NO_LOSS`], `[tokens]`.
    pub targets: Vec<i64>,
    /// Which tokens see which: of every question a segment that all its choices begin with, then one for the rest of
    /// each choice.
    pub layout: Layout,
    /// Which question each is, counted from 0.
    pub questions: Vec<usize>,
    /// How many targets are not [`NO_LOSS`].
    pub label_count: usize,
}

impl Batch {
    fn new(requests: &[Request], questions: Vec<usize>) -> Self {
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for &question in &questions {
            let Request { common, rests } = &requests[question];
            for piece in [common].into_iter().chain(rests) {
                ids.extend_from_slice(&piece.ids);
                targets.extend_from_slice(&piece.targets);
            }
        }
        let lengths = |request: &Request| {
            (request.common.ids.len(), request.rests.iter().map(|rest| rest.ids.len()).collect::<Vec<_>>())
        };
        let groups: Vec<_> = questions.iter().map(|&question| lengths(&requests[question])).collect();
        let label_count = targets.iter().filter(|target| **target != NO_LOSS).count();
        Self { ids, targets, layout: Layout::branching(&groups), questions, label_count }
    }

    /// The batch as a model takes it.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        Tokens { ids: Arc::new(self.ids.clone()), layout: Arc::new(self.layout.clone()) }
    }
}

/// Batches of about `tokens` tokens, longest questions first, so that memory runs out early if at all.
pub(super) fn batches(requests: &[Request], tokens: usize) -> impl Iterator<Item = Batch> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&question| Reverse(requests[question].tokens()));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for question in order {
        let size = requests[question].tokens();
        match groups.last_mut() {
            Some(group) if size <= room => {
                group.push(question);
                room -= size;
            }
            _ => {
                groups.push(vec![question]);
                room = tokens.saturating_sub(size);
            }
        }
    }
    groups.into_iter().map(|questions| Batch::new(requests, questions))
}
