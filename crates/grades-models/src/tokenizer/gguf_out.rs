//! What a GGUF file says of a tokenizer.

use std::collections::BTreeMap;

use serde_json::Value;

use super::gguf::{CONTROL, GPT_4O, LLAMA3, QWEN2, TEKKEN, UNUSED, USER_DEFINED};
use super::{Result, Tokenizer, TokenizerError};
use crate::fields::warn_once;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const BYTE: i32 = 6;

/// A tokenizer in the terms of `tokenizer.ggml.*`.
#[derive(Debug)]
pub(crate) struct GgufTokenizer {
    /// `gpt2` for bytes spelled as letters, `llama` for SentencePiece's way.
    pub(crate) model: &'static str,
    /// How text is cut before merging.
    pub(crate) pre: Option<&'static str>,
    /// As many as the embedding has rows.
    pub(crate) tokens: Vec<String>,
    pub(crate) types: Vec<i32>,
    /// Of SentencePiece's way: what is merged first has the higher one.
    pub(crate) scores: Option<Vec<f32>>,
    pub(crate) merges: Vec<String>,
    /// Ids by llama.cpp's names of the roles.
    pub(crate) roles: Vec<(&'static str, u32)>,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
    pub(crate) add_space_prefix: bool,
}

impl Tokenizer {
    /// What a GGUF file of a model with `rows` embeddings says of the tokenizer.
    ///
    /// # Errors
    /// If llama.cpp has no such tokenizer.
    pub(crate) fn as_gguf(&self, rows: usize) -> Result<GgufTokenizer> {
        let definition = self.inner.to_string(false).map_err(|error| refused(&error.to_string()))?;
        let definition: Value = serde_json::from_str(&definition).map_err(|error| refused(&error.to_string()))?;
        let model = &definition["model"];
        let kind = model["type"].as_str().unwrap_or_default();
        let merges = model["merges"].as_array().filter(|_| kind == "BPE");
        let merges = merges.ok_or_else(|| refused(&format!("it is of the kind {kind:?}, and BPE can be written")))?;
        let merges: Vec<(String, String)> = merges.iter().filter_map(pair).collect();
        let steps = listed(&definition["pre_tokenizer"], "pretokenizers");
        let bytes = steps.iter().any(|step| step["type"] == "ByteLevel");
        let sentencepiece = model["byte_fallback"] == true;
        if bytes == sentencepiece {
            return Err(refused("it is neither byte-level BPE nor SentencePiece's with bytes"));
        }
        let pre = if bytes { Some(pre(&steps, model["ignore_merges"] == true)?) } else { None };

        let (tokens, types) = self.table(rows, sentencepiece);
        let scores = sentencepiece.then(|| scores(&tokens, &merges));
        let special = self.special_tokens();
        let roles =
            [("bos", &special.bos), ("eos", &special.eos), ("unknown", &special.unk), ("padding", &special.pad)];
        let within = |id: &u32| (*id as usize) < rows;
        let role =
            |(name, token): (&'static str, &Option<String>)| Some((name, self.id(token.as_deref()?).filter(within)?));
        let ids = self.encode("a", true)?;
        let is = |token: Option<u32>, at: Option<&u32>| token.is_some() && token.as_ref() == at;
        Ok(GgufTokenizer {
            model: if bytes { "gpt2" } else { "llama" },
            pre,
            tokens,
            types,
            scores,
            merges: merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
            roles: roles.into_iter().filter_map(role).collect(),
            add_bos: is(self.bos_id(), ids.first()),
            add_eos: is(self.eos_id(), ids.last()),
            add_space_prefix: sentencepiece && has_prefix(&definition, &steps),
        })
    }

    /// Token and type of each row of the embedding.
    fn table(&self, rows: usize, sentencepiece: bool) -> (Vec<String>, Vec<i32>) {
        let added = self.inner.get_added_tokens_decoder();
        let known: BTreeMap<u32, String> =
            self.inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        if let Some((_, token)) = known.range(rows as u32..).next() {
            warn_once(format!("the token {token:?} has no row in the embedding and is left out of the GGUF file"));
        }
        let unknown = self.special.unk.as_deref();
        let of = |id: usize| match (known.get(&(id as u32)), added.get(&(id as u32))) {
            (None, _) => (format!("[PAD{id}]"), UNUSED as i32),
            (Some(token), _) if sentencepiece && unknown == Some(token) => (token.clone(), UNKNOWN),
            (Some(token), Some(added)) => {
                (token.clone(), if added.special { CONTROL as i32 } else { USER_DEFINED as i32 })
            }
            (Some(token), None) if sentencepiece && is_byte(token) => (token.clone(), BYTE),
            (Some(token), None) => (token.clone(), NORMAL),
        };
        (0..rows).map(of).unzip()
    }
}

fn refused(problem: &str) -> TokenizerError {
    TokenizerError::NotGguf { problem: problem.to_owned() }
}

/// A merge, written as a pair or as one text.
fn pair(merge: &Value) -> Option<(String, String)> {
    let (left, right) = match merge {
        Value::String(text) => text.split_once(' ')?,
        merge => (merge.get(0)?.as_str()?, merge.get(1)?.as_str()?),
    };
    Some((left.to_owned(), right.to_owned()))
}

/// The steps of a sequence, or the only one.
fn listed<'a>(step: &'a Value, key: &str) -> Vec<&'a Value> {
    match step[key].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![step],
    }
}

/// llama.cpp's name for a way of cutting text. `whole` is whether a piece that is a token is taken as it is.
fn pre(steps: &[&Value], whole: bool) -> Result<&'static str> {
    let mut found = None;
    for step in steps {
        found = match (step["type"].as_str(), step["pattern"]["Regex"].as_str(), found) {
            (Some("Digits"), _, None) if step["individual_digits"] == true => Some("smollm"),
            (Some("Split"), Some(LLAMA3), None) => Some(if whole { "llama-bpe" } else { "dbrx" }),
            (Some("Split"), Some(QWEN2), None) => Some("qwen2"),
            (Some("Split"), Some(TEKKEN), None) => Some("tekken"),
            (Some("Split"), Some(GPT_4O), None) => Some("gpt-4o"),
            (Some("ByteLevel"), _, found) if step["add_prefix_space"] != true => {
                // GPT-2's own regular expression, or none after another.
                let cuts = step["use_regex"] != false;
                match found {
                    None if cuts => Some("gpt-2"),
                    Some("smollm") if cuts => found,
                    Some(other) if other != "smollm" && !cuts => found,
                    _ => return Err(refused("it cuts text in a way that llama.cpp has no name for")),
                }
            }
            _ => {
                let step = step["pattern"]["Regex"].as_str().unwrap_or(step["type"].as_str().unwrap_or("nothing"));
                return Err(refused(&format!("it cuts text by {step}, for which llama.cpp has no name")));
            }
        };
    }
    found.ok_or_else(|| refused("it does not cut text"))
}

/// Whether a space is put before a text.
fn has_prefix(definition: &Value, steps: &[&Value]) -> bool {
    let prepends = |step: &&Value| step["type"] == "Prepend";
    let metaspace = |step: &&Value| step["type"] == "Metaspace" && step["prepend_scheme"] != "never";
    listed(&definition["normalizer"], "normalizers").iter().any(prepends) || steps.iter().any(metaspace)
}

/// Whether a token is one of the 256 that stand for bytes, `<0x0A>`.
fn is_byte(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}

/// Scores by which SentencePiece merges in the order of `merges`; what none of them makes is never merged to.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: BTreeMap<String, usize> = BTreeMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let last = merges.len();
    tokens.iter().map(|token| -(ranks.get(token).copied().unwrap_or(last) as f32)).collect()
}
