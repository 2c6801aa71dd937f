//! Tokenizers: text to token ids and back, as `AutoTokenizer` of transformers does it.

mod charsmap;
mod files;
mod gguf;
mod gguf_out;
mod post_processor;
mod protobuf;
mod sentencepiece;
mod special;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod words;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::weights::WeightsError;

pub use files::TEMPLATE_FILE;
pub use special::SpecialTokens;
pub use stream::StreamDecoder;
pub use text::{Around, Encoded};
use words::Words;

/// Result of loading or using a tokenizer.
pub type Result<T, E = TokenizerError> = std::result::Result<T, E>;

/// Why a tokenizer cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] WeightsError),
    /// The checkpoint has no tokenizer.
    #[error("{} has no tokenizer: {problem}", path.display())]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// What was looked for.
        problem: String,
    },
    /// A tokenizer file contradicts its format.
    #[error("{} holds no usable tokenizer: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        problem: String,
    },
    /// The tokenizer and the model do not belong together.
    #[error(
        "the tokenizer knows token {token:?} with id {id}, but the model has only {vocab_size} embeddings; \
         take both from one checkpoint"
    )]
    DoesNotFit {
        /// The token of the vocabulary with the largest id.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// A text has a token that the model does not have.
    #[error(
        "the text holds the token {token:?} (id {id}), for which the model's embedding of {vocab_size} rows has none; take \
         it out, or use the tokenizer and chat template that belong to the model"
    )]
    NoRow {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// llama.cpp has no such tokenizer.
    #[error("the tokenizer cannot be written to a GGUF file: {problem}")]
    NotGguf {
        /// What it has that llama.cpp has not.
        problem: String,
    },
    /// A text cannot be encoded.
    #[error("a text of {length} bytes cannot be tokenized: {problem}")]
    Encode {
        /// Its length.
        length: usize,
        /// The reason.
        problem: String,
    },
    /// Saving would replace a file, or the disk refused.
    #[error("cannot save the tokenizer as {}: {source}", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// A tokenizer with what belongs to it: special tokens and the chat template.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    templates: Templates,
    /// `tokenizer_config.json`, to be saved again.
    config: Value,
    /// What is remembered of words, where they may be encoded by themselves.
    words: OnceLock<Option<Arc<Words>>>,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint: `tokenizer.json`, or else the SentencePiece model `tokenizer.model`, in the folder of
    /// `path` (with `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` where they are), or the
    /// metadata of a GGUF file.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn from_checkpoint(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        // A tokenizer.json is the original and wins over what a converter kept of it.
        if (path.is_dir() || path.extension().is_some_and(|e| e == "safetensors")) && files::present(folder) {
            return files::load(folder);
        }
        match crate::weights::locate_gguf(path)? {
            Some(file) => gguf::load(&file),
            None => Err(TokenizerError::Missing {
                path: folder.to_owned(),
                problem: "there is no tokenizer.json and no tokenizer.model; convert the tokenizer by loading it with transformers' \
                          AutoTokenizer and saving it"
                    .into(),
            }),
        }
    }

    /// With further special tokens, which get the ids behind all others; those that it has already stay as they are.
    ///
    /// # Errors
    /// If one cannot be told from text.
    pub fn with_special_tokens(mut self, tokens: &[String]) -> Result<Self> {
        let token = |text: &String| tokenizers::AddedToken::from(text.clone(), true);
        let added = self.inner.add_special_tokens(tokens.iter().map(token));
        added.map_err(|error| encode_error(&tokens.concat(), &error))?;
        self.words = OnceLock::new();
        Ok(self)
    }

    /// With another chat template, for conversations with tools as well.
    #[must_use]
    pub fn with_chat_template(mut self, template: String) -> Self {
        self.templates = Templates { default: Some(template), tool_use: None };
        self
    }

    /// With the chat template that a folder has in a file of its own, as that of an adapter may.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn with_template_in(self, folder: &Path) -> Result<Self> {
        Ok(match files::template(folder)? {
            Some(template) => self.with_chat_template(template),
            None => self,
        })
    }

    /// The ids of `text`; special tokens written in it are recognised. `add_special_tokens` adds those that the
    /// tokenizer puts around a sequence, often a BOS, often none. As transformers calls it; what a model reads is
    /// encoded by [`encode_text`](Self::encode_text).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|e| encode_error(text, &e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`; an id without a token is passed over, broken UTF-8 becomes `�`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner.decode(ids, skip_special).unwrap_or_default()
    }

    /// A decoder for ids that arrive one by one.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id is that of a special token, which is matched whole and is no part of what is said.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Fails if the vocabulary is larger than `vocab_size`, the rows of a model's embedding. Tokens that were added to it may
    /// lie beyond, as a token for padding often does: a row is needed only by what occurs ([`check_rows`](Self::check_rows)).
    pub fn check_fits(&self, vocab_size: usize) -> Result<()> {
        let largest = self.inner.get_vocab(false).into_iter().max_by_key(|(_, id)| *id);
        match largest {
            Some((token, id)) if id as usize >= vocab_size => Err(TokenizerError::DoesNotFit { token, id, vocab_size }),
            _ => Ok(()),
        }
    }

    /// Fails if one of `ids` has no row in an embedding of `vocab_size` rows.
    pub fn check_rows(&self, ids: &[u32], vocab_size: usize) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(&id) => Err(TokenizerError::NoRow { token: self.token(id).unwrap_or_default(), id, vocab_size }),
            None => Ok(()),
        }
    }

    /// The tokens with a role.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The id of the token that begins a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.id(self.special.bos.as_deref()?)
    }

    /// The id of the token that ends a sequence.
    pub fn eos_id(&self) -> Option<u32> {
        self.id(self.special.eos.as_deref()?)
    }

    /// The id of the token that fills a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.id(self.special.pad.as_deref()?)
    }

    /// The Jinja source of the chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.default.as_deref()
    }

    /// The Jinja source of the template for conversations with tools, where that is another.
    pub fn tool_template(&self) -> Option<&str> {
        self.templates.tool_use.as_deref()
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` into the
    /// folder `dir`, so that transformers loads the same tokenizer.
    ///
    /// # Errors
    /// If one of them exists, or the disk refuses.
    pub fn save(&self, dir: &Path) -> Result<()> {
        files::save(self, dir)
    }
}

/// The sources of chat templates.
#[derive(Debug, Clone, Default)]
struct Templates {
    default: Option<String>,
    /// For conversations with tools.
    tool_use: Option<String>,
}

fn encode_error(text: &str, error: &tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode { length: text.len(), problem: error.to_string() }
}
