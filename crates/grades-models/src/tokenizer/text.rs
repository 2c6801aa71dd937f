//! A whole text as tokens, with those that belong around it there once.
//!
//! A text is encoded in one piece, never in parts: a merge over a join, or the space that a SentencePiece tokenizer puts before
//! every piece, would make other tokens of it than the model has seen. Which tokens stand for a part is told by their bytes.

use std::ops::Range;
use std::sync::Arc;

use super::words::Words;
use super::{Result, Tokenizer, encode_error};

/// What a text is, and so which tokens belong around it. One that the text has written out is not added again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Around {
    /// A rendered chat template, which writes its tokens itself.
    Template,
    /// The beginning of a text that goes on: what the tokenizer puts before a text, and nothing behind it.
    Beginning,
    /// A text to be learnt: also what the tokenizer puts behind it, and its end-of-text token in any case.
    Sample,
}

/// A text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each the bytes of the text that it stands for; where two share a character, both have all of it. What was put
    /// around the text has an empty range at its begin or end.
    pub ranges: Vec<Range<usize>>,
}

impl Encoded {
    fn push(&mut self, ids: &[u32], at: usize) {
        self.ids.extend_from_slice(ids);
        self.ranges.extend(ids.iter().map(|_| at..at));
    }
}

impl Tokenizer {
    /// The tokens of a whole text, and of those around it what `around` asks for and the text does not have itself.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode_text(&self, text: &str, around: Around) -> Result<Encoded> {
        let encoded = match self.words.get_or_init(|| Words::of(&self.inner).map(Arc::new)) {
            Some(words) => words.encode(&self.inner, text).map(|own| (own, words.around.clone())),
            None => self.encode_whole(text, around != Around::Template),
        };
        let (mut own, [before, behind]) = encoded.map_err(|e| encode_error(text, &e))?;
        let (before, behind) = (before.as_slice(), behind.as_slice());
        if around == Around::Template {
            self.drop_doubled(&mut own);
            return Ok(own);
        }
        let is_space = |range: &Range<usize>| text.get(range.clone()).is_some_and(|text| text.trim().is_empty());
        let first = own.ranges.iter().take_while(|range| is_space(range)).count();
        let last = own.ranges.len() - own.ranges.iter().rev().take_while(|range| is_space(range)).count();
        let mut whole = Encoded::default();
        if !own.ids[first..].starts_with(before) {
            whole.push(before, 0);
        }
        let ends_with = |end: &[u32]| first <= last && own.ids[first..last].ends_with(end);
        let mut end = Vec::new();
        if around == Around::Sample {
            let eos = self.eos_id();
            if !ends_with(behind) && !eos.is_some_and(|eos| ends_with(&[eos])) {
                end.extend_from_slice(behind);
            }
            let ended = |eos: u32| if end.is_empty() { ends_with(&[eos]) } else { end.contains(&eos) };
            end.extend(eos.filter(|eos| !ended(*eos)));
        }
        whole.ids.append(&mut own.ids);
        whole.ranges.append(&mut own.ranges);
        whole.push(&end, text.len());
        Ok(whole)
    }

    /// The tokens of a text, and those that the tokenizer puts before it and behind it, if it is to.
    pub(super) fn encode_whole(&self, text: &str, with_around: bool) -> tokenizers::Result<(Encoded, [Vec<u32>; 2])> {
        let encoding = self.inner.encode(text, with_around)?;
        let (ids, mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        // It marks what it has put around.
        let before = mask.iter().take_while(|added| **added == 1).count();
        let behind = mask[before..].iter().rev().take_while(|added| **added == 1).count();
        let body = before..ids.len() - behind;
        let own = Encoded {
            ids: ids[body.clone()].to_vec(),
            ranges: ranges(&encoding.get_tokens()[body.clone()], &encoding.get_offsets()[body.clone()]),
        };
        Ok((own, [ids[..before].to_vec(), ids[body.end..].to_vec()]))
    }

    /// Begin and end tokens that a message has written out where the template writes them, too.
    fn drop_doubled(&self, tokens: &mut Encoded) {
        let (bos, eos) = (self.bos_id(), self.eos_id());
        let doubled = |place: usize| {
            let id = tokens.ids[place];
            place > 0 && tokens.ids[place - 1] == id && (Some(id) == eos || place == 1 && Some(id) == bos)
        };
        let keep: Vec<bool> = (0..tokens.ids.len()).map(|place| !doubled(place)).collect();
        let mut kept = keep.iter().copied();
        tokens.ids.retain(|_| kept.next().unwrap_or(true));
        let mut kept = keep.into_iter();
        tokens.ranges.retain(|_| kept.next().unwrap_or(true));
    }
}

/// The bytes of tokens. Byte-level tokenizers may leave out the spaces that a token begins with, and of one of spaces alone all:
/// they are the last before its end, as many as its letters.
pub(super) fn ranges(tokens: &[String], offsets: &[(usize, usize)]) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |(token, &(begin, until)): (&String, &(usize, usize))| {
        let spaces = || until.saturating_sub(token.chars().count()).max(end).min(until);
        let range = if begin < until { begin..until } else { spaces()..until };
        end = end.max(until);
        range
    };
    tokens.iter().zip(offsets).map(range).collect()
}
