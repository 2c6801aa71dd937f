//! The `tokenizer.json` that a GGUF file's metadata stands for.
//!
//! Reference: `gguf_tokenizer_mapping.py` of transformers 5.23. It forgets some of what the original tokenizers do,
//! and the model was trained with the original; so these differences are on purpose:
//!
//! - `smollm` and its relatives split every digit off before anything else (transformers: GPT-2's splitting, which
//!   differs for a digit behind two spaces);
//! - `qwen2` normalises to NFC;
//! - `llama-bpe` and `tekken` take a piece that is a token as it is (`ignore_merges`), and `llama-bpe` begins with a
//!   BOS unless the file says otherwise;
//! - `add_space_prefix = false` is obeyed.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::files::{build, malformed};
use super::post_processor::around;
use super::{Result, SpecialTokens, Templates, Tokenizer, TokenizerError};
use crate::fields::warn_once;
use crate::weights::gguf::Metadata;

/// `tokenizer.ggml.token_type` of tokens like `<|im_end|>`.
pub(super) const CONTROL: i64 = 3;
/// `tokenizer.ggml.token_type` of what stands for nothing; a row of the embedding without a token is called `[PAD7]`.
pub(super) const UNUSED: i64 = 5;
/// `tokenizer.ggml.token_type` of tokens like `<think>`, matched whole but part of the text.
pub(super) const USER_DEFINED: i64 = 4;

pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level vocabulary cuts text before merging.
enum Splitting {
    /// GPT-2's regular expression.
    Gpt2,
    /// Each digit alone, then GPT-2's.
    Digits,
    /// A regular expression of its own.
    Regex(&'static str),
}

/// Loads the tokenizer of a GGUF file.
pub(super) fn load(path: &Path) -> Result<Tokenizer> {
    let metadata = Metadata::open(path)?;
    let vocabulary = Vocabulary::read(path, &metadata)?;
    let definition = match metadata.string("tokenizer.ggml.model") {
        Some("gpt2") => byte_level(path, &metadata, &vocabulary)?,
        Some("llama") => sentencepiece(path, &metadata, &vocabulary)?,
        Some(other) => {
            return Err(malformed(
                path,
                format!("its tokenizer is of the kind {other}; put the original tokenizer.json into a folder with it"),
            ));
        }
        None => {
            return Err(TokenizerError::Missing {
                path: path.to_owned(),
                problem: "its metadata has no tokenizer.ggml.model".into(),
            });
        }
    };
    let special = vocabulary.roles;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "bos_token": special.bos, "eos_token": special.eos, "unk_token": special.unk, "pad_token": special.pad,
    });
    let template = |key: &str| metadata.string(key).map(str::to_owned);
    let templates = Templates {
        default: template("tokenizer.chat_template"),
        tool_use: template("tokenizer.chat_template.tool_use"),
    };
    Ok(Tokenizer { inner: build(path, &definition)?, special, templates, config, words: OnceLock::new() })
}

/// The token table.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: &'a [i64],
    /// Ids of tokens that are matched whole, with whether they are special.
    added: Vec<(usize, bool)>,
    roles: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(path: &Path, metadata: &'a Metadata) -> Result<Self> {
        let tokens = metadata
            .strings("tokenizer.ggml.tokens")
            .filter(|tokens| !tokens.is_empty() && tokens.len() <= u32::MAX as usize)
            .ok_or_else(|| malformed(path, "its metadata has no list tokenizer.ggml.tokens"))?;
        let types = metadata.integers("tokenizer.ggml.token_type").unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(malformed(path, format!("it has {} tokens but {} token types", tokens.len(), types.len())));
        }
        let role = |name: &str| -> Result<Option<(u32, String)>> {
            let Some(id) = metadata.integer(&format!("tokenizer.ggml.{name}_token_id")) else { return Ok(None) };
            match tokens.get(id as usize) {
                Some(token) => Ok(Some((id, token.clone()))),
                None => Err(malformed(path, format!("its {name} token has the id {id} of {} tokens", tokens.len()))),
            }
        };
        let (bos, eos, unk, pad) = (role("bos")?, role("eos")?, role("unknown")?, role("padding")?);
        let with_role: BTreeSet<usize> = [&bos, &eos, &unk, &pad].into_iter().flatten().map(|r| r.0 as usize).collect();
        let added = (0..tokens.len())
            .filter_map(|id| {
                let special = types.get(id) == Some(&CONTROL) || with_role.contains(&id);
                (special || types.get(id) == Some(&USER_DEFINED)).then_some((id, special))
            })
            .filter(|(id, _)| !tokens[*id].is_empty())
            .collect();
        let text = |role: &Option<(u32, String)>| role.as_ref().map(|(_, token)| token.clone());
        let roles = SpecialTokens {
            bos: text(&bos),
            eos: text(&eos),
            unk: text(&unk),
            pad: text(&pad),
            ..SpecialTokens::default()
        };
        Ok(Self { tokens, types, added, roles, bos: bos.map(|r| r.0), eos: eos.map(|r| r.0) })
    }

    /// The tokens with their ids, without rows that have none.
    fn tokens(&self) -> impl Iterator<Item = (usize, &'a String)> {
        let empty = |id: usize, token: &str| self.types.get(id) == Some(&UNUSED) && token == format!("[PAD{id}]");
        self.tokens.iter().enumerate().filter(move |(id, token)| !empty(*id, token))
    }

    /// `added_tokens` of a tokenizer.json.
    fn added_tokens(&self) -> Value {
        self.added
            .iter()
            .map(|&(id, special)| {
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
            .collect()
    }

    /// `post_processor`: the tokens put around a sequence.
    fn around(&self, path: &Path, add_bos: bool, add_eos: bool) -> Result<Value> {
        let named = |wanted: bool, id: Option<u32>, key: &str| match (wanted, id) {
            (false, _) => Ok(None),
            (true, Some(id)) => Ok(Some((self.tokens[id as usize].as_str(), id))),
            (true, None) => Err(malformed(path, format!("it asks for a {key} token around texts but names none"))),
        };
        Ok(around(named(add_bos, self.bos, "bos")?, named(add_eos, self.eos, "eos")?))
    }
}

/// Byte-level BPE with the splitting that `tokenizer.ggml.pre` names.
fn byte_level(path: &Path, metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let pre = metadata.string("tokenizer.ggml.pre").unwrap_or_else(|| {
        warn_once(format!(
            "{}: it does not say how text is cut (tokenizer.ggml.pre); it is cut as by GPT-2",
            path.display()
        ));
        "default"
    });
    let splitting = match pre {
        "default" | "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "jais" | "roberta-bpe" | "exaone4" | "mellum" => {
            Splitting::Gpt2
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "minerva-7b" => Splitting::Digits,
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" | "dbrx" | "smaug-bpe" | "lfm2" => {
            Splitting::Regex(LLAMA3)
        }
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "megrez" => Splitting::Regex(QWEN2),
        "tekken" => Splitting::Regex(TEKKEN),
        "gpt-4o" | "llama4" | "kanana2" => Splitting::Regex(GPT_4O),
        other => {
            return Err(malformed(
                path,
                format!(
                    "it cuts text as `{other}` (tokenizer.ggml.pre), which is not known; put the original tokenizer.json into a \
                     folder with it"
                ),
            ));
        }
    };
    let llama3 = matches!(pre, "llama3" | "llama-v3" | "llama-bpe");
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let pre_tokenizer = match splitting {
        Splitting::Gpt2 => byte_level(true),
        Splitting::Digits => json!({
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level(true)],
        }),
        Splitting::Regex(regex) => json!({
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false },
                byte_level(false),
            ],
        }),
    };

    // Ordinary tokens are spelled in the byte alphabet; some converters left a few as plain text. Tokens matched
    // whole are plain text.
    let spelling = byte_alphabet();
    let alphabet: BTreeSet<char> = spelling.into_iter().collect();
    let added: BTreeSet<usize> = vocabulary.added.iter().map(|(id, _)| *id).collect();
    let vocab: Map<String, Value> = vocabulary
        .tokens()
        .map(|(id, token)| {
            let spelled = added.contains(&id) || token.chars().all(|c| alphabet.contains(&c));
            let token = match spelled {
                true => token.clone(),
                false => token.bytes().map(|byte| spelling[byte as usize]).collect(),
            };
            (token, json!(id))
        })
        .collect();
    let merges = file_merges(path, metadata)?
        .ok_or_else(|| malformed(path, "its metadata has no list tokenizer.ggml.merges"))?;

    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(llama3 && vocabulary.bos.is_some());
    let add_eos = metadata.bool("tokenizer.ggml.add_eos_token").unwrap_or(false);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": if pre == "qwen2" { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocabulary.around(path, add_bos, add_eos)?,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": llama3 || pre == "tekken", "vocab": vocab, "merges": merges,
        },
    }))
}

/// BPE over characters with `▁` for the space and bytes for what has no token, as Llama 2 and its relatives use it.
fn sentencepiece(path: &Path, metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let merges = match file_merges(path, metadata)? {
        Some(merges) => merges,
        None => {
            let scores = metadata
                .floats("tokenizer.ggml.scores")
                .filter(|scores| scores.len() == vocabulary.tokens.len())
                .ok_or_else(|| malformed(path, "its metadata has neither merges nor a score for each token"))?;
            implied_merges(vocabulary.tokens, scores)
        }
    };
    let prefix_space = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let phi3 = metadata.string("general.architecture") == Some("phi3");
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    // Phi-3's prefix space comes before the normalised text, the others' only where there is none yet.
    let (normalizer, pre_tokenizer) = match phi3 {
        true => (
            json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, replace] }),
            Value::Null,
        ),
        false => (
            Value::Null,
            json!({
                "type": "Metaspace", "replacement": "▁", "split": false,
                "prepend_scheme": if prefix_space { "first" } else { "never" },
            }),
        ),
    };
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix_space || phi3 {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let vocab: Map<String, Value> = vocabulary.tokens().map(|(id, token)| (token.clone(), json!(id))).collect();
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(vocabulary.bos.is_some());
    let add_eos = metadata.bool("tokenizer.ggml.add_eos_token").unwrap_or(false);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocabulary.around(path, add_bos, add_eos)?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

/// The merges that the file lists, each `left right`.
fn file_merges(path: &Path, metadata: &Metadata) -> Result<Option<Vec<[String; 2]>>> {
    let Some(merges) = metadata.strings("tokenizer.ggml.merges") else { return Ok(None) };
    merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok([left.to_owned(), right.to_owned()]),
            None => Err(malformed(path, format!("its merge {merge:?} is not two tokens with a space between"))),
        })
        .collect::<Result<_>>()
        .map(Some)
}

/// The merges that scores imply: every cut of a token into two tokens, best score first.
///
/// The order among equal scores is that of `generate_merges` in transformers, on which the result depends: longer
/// left part, longer right part, then the order of the tokens in the file, of the left and of the right part.
fn implied_merges(tokens: &[String], scores: &[f32]) -> Vec<[String; 2]> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        let mut cuts: Vec<(usize, usize)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(cut, _)| ids.get(&token[..cut]).copied().zip(ids.get(&token[cut..]).copied()))
            .collect();
        cuts.sort_unstable();
        merges.extend(cuts.into_iter().map(|(left, right)| (score, left, right)));
    }
    let length = |id: usize| tokens[id].chars().count();
    // Stable, so that the order of the file decides in the end.
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(length(b.1).cmp(&length(a.1))).then(length(b.2).cmp(&length(a.2))));
    merges.into_iter().map(|(_, left, right)| [tokens[left].clone(), tokens[right].clone()]).collect()
}

/// The printable character that stands for each byte in byte-level vocabularies (GPT-2's `bytes_to_unicode`).
fn byte_alphabet() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}
