//! Encoding word by word, each of which is encoded once.
//!
//! The crate makes strings and alignments of every token, so most of its time goes into memory. A byte-level tokenizer parts a text
//! before the space of a word in any case, and what it makes of a word does not depend on what stands around it: so words may be
//! encoded by themselves, and what came of them be remembered. Tokenizers of which that is not certain encode texts whole.

use std::collections::HashMap;
use std::iter;
use std::sync::{PoisonError, RwLock};

use serde_json::Value;
use tokenizers::ModelWrapper;

use super::gguf::{LLAMA3, QWEN2};
use super::text::{Encoded, ranges};

/// Longest word that is remembered, in bytes, and most of them.
const LONGEST: usize = 48;
const MOST: usize = 1 << 18;

/// A token of a word, and its bytes there.
type Piece = (u32, u32, u32);

/// What is remembered.
#[derive(Debug)]
pub(super) struct Words {
    /// What the tokenizer puts before a text and behind it.
    pub(super) around: [Vec<u32>; 2],
    known: RwLock<HashMap<Box<str>, Box<[Piece]>>>,
}

impl Words {
    /// Of a tokenizer whose words may be encoded by themselves; else none.
    pub(super) fn of(inner: &tokenizers::Tokenizer) -> Option<Self> {
        let of = |part: serde_json::Result<Value>| part.unwrap_or_default();
        let normalizer = of(serde_json::to_value(inner.get_normalizer()));
        let is_bytes = matches!(inner.get_model(), ModelWrapper::BPE(model) if model.dropout.is_none());
        // Composing letters does not reach over a space.
        let keeps_words = normalizer.is_null() || normalizer["type"] == "NFC";
        let parts = parts_before_words(&of(serde_json::to_value(inner.get_pre_tokenizer())));
        // What is matched whole has no word in it, and does not depend on what is beside it.
        let added = inner.get_added_tokens_decoder();
        let is_apart = |token: &tokenizers::AddedToken| {
            !(token.lstrip || token.rstrip || token.single_word || token.content.contains(char::is_whitespace))
        };
        let is_whole = inner.get_truncation().is_none() && inner.get_padding().is_none();
        if spares_first_space(&of(serde_json::to_value(inner.get_post_processor())))
            || !(is_bytes && keeps_words && parts && is_whole && added.values().all(is_apart))
        {
            return None;
        }
        let (bare, all) = (inner.encode("a", false).ok()?, inner.encode("a", true).ok()?);
        let (bare, all) = (bare.get_ids(), all.get_ids());
        let before = (0..all.len()).find(|&at| !bare.is_empty() && all[at..].starts_with(bare))?;
        let around = [all[..before].to_vec(), all[before + bare.len()..].to_vec()];
        Some(Self { around, known: RwLock::default() })
    }

    /// The tokens of a text, without those around it.
    pub(super) fn encode(&self, inner: &tokenizers::Tokenizer, text: &str) -> tokenizers::Result<Encoded> {
        let mut whole = Encoded { ids: Vec::with_capacity(text.len() / 3), ranges: Vec::with_capacity(text.len() / 3) };
        let mut start = 0;
        let mut add = |pieces: &[Piece], length: usize| {
            whole.ids.extend(pieces.iter().map(|(id, ..)| id));
            let at = |byte: u32| start + byte as usize;
            whole.ranges.extend(pieces.iter().map(|&(_, from, to)| at(from)..at(to)));
            start += length;
        };
        let mut known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        for word in words(text) {
            if let Some(pieces) = known.get(word) {
                add(pieces, word.len());
                continue;
            }
            drop(known);
            let encoding = inner.encode(word, false)?;
            let ranges = ranges(encoding.get_tokens(), encoding.get_offsets());
            let piece = |(&id, range): (&u32, &std::ops::Range<usize>)| (id, range.start as u32, range.end as u32);
            let pieces: Box<[Piece]> = encoding.get_ids().iter().zip(&ranges).map(piece).collect();
            add(&pieces, word.len());
            if word.len() <= LONGEST {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                if known.len() < MOST {
                    known.insert(word.into(), pieces);
                }
            }
            known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        }
        Ok(whole)
    }
}

/// Whether a pre-tokenizer parts texts before each word of [`words`], and each word alike wherever it stands.
fn parts_before_words(pre_tokenizer: &Value) -> bool {
    let own = [pre_tokenizer.clone()];
    let stages = match pre_tokenizer["pretokenizers"].as_array() {
        Some(stages) if pre_tokenizer["type"] == "Sequence" => stages.as_slice(),
        _ => &own,
    };
    let is_one = |stage: &Value| match stage["type"].as_str() {
        Some("ByteLevel") => stage["add_prefix_space"] == false,
        Some("Digits") => true,
        Some("Split") => is_known_split(stage),
        _ => false,
    };
    // One of them must do it.
    let parts = |stage: &Value| stage["use_regex"] == true || is_known_split(stage);
    stages.iter().all(is_one)
        && stages.iter().any(parts)
        && stages.last().is_some_and(|last| last["type"] == "ByteLevel")
}

/// Whether a post-processor leaves the space before a text's first token to it, and takes that of others.
fn spares_first_space(post_processor: &Value) -> bool {
    let of_itself = post_processor["add_prefix_space"] == true && post_processor["trim_offsets"] != false;
    of_itself || post_processor["processors"].as_array().is_some_and(|parts| parts.iter().any(spares_first_space))
}

fn is_known_split(stage: &Value) -> bool {
    let is_known = |regex: &str| [LLAMA3, QWEN2].contains(&regex);
    stage["behavior"] == "Isolated"
        && stage["invert"] == false
        && stage["pattern"]["Regex"].as_str().is_some_and(is_known)
}

/// A text in stretches, each of which but the first begins with the one space before a word in ASCII letters; before it is a letter,
/// a digit or a mark in ASCII, to which no pattern of [`parts_before_words`] adds a space.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let (bytes, mut from) = (text.as_bytes(), 0);
    let begins = |at: usize| {
        bytes[at] == b' ' && bytes[at - 1].is_ascii_graphic() && bytes.get(at + 1).is_some_and(u8::is_ascii_alphabetic)
    };
    iter::from_fn(move || {
        let start = from;
        from = (start + 1..bytes.len()).find(|&at| begins(at)).unwrap_or(bytes.len());
        text.get(start..from).filter(|word| !word.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_text_and_begin_with_their_space() {
        let parts = |text: &'static str| words(text).collect::<Vec<_>>();
        assert_eq!(parts("The red fox, it's  a b.\n c 12 é x"), ["The", " red", " fox,", " it's  a", " b.\n c 12 é x"]);
        assert_eq!(parts(""), [] as [&str; 0]);
        assert_eq!(parts(" a"), [" a"]);
        assert_eq!(parts("<|turn|> b a"), ["<|turn|>", " b", " a"]);
    }
}
