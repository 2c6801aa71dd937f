//! Tokenizers: text to token ids and back, as `AutoTokenizer` of transformers does it.

mod files;
mod gguf;
mod post_processor;
mod stream;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::weights::WeightsError;

pub use stream::StreamDecoder;

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
        /// The token with the largest id.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
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

/// The tokens with a role, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<String>,
    /// Ends a sequence.
    pub eos: Option<String>,
    /// Stands for what has no token.
    pub unk: Option<String>,
    /// Fills a batch.
    pub pad: Option<String>,
}

/// A tokenizer with what belongs to it: special tokens and the chat template.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    chat_template: Option<String>,
    /// `tokenizer_config.json`, to be saved again.
    config: Value,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint: `tokenizer.json` in the folder of `path` (with `tokenizer_config.json`,
    /// `special_tokens_map.json` and `chat_template.jinja` where they are), or the metadata of a GGUF file.
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
                problem: "there is no tokenizer.json; convert the tokenizer by loading it with transformers' \
                          AutoTokenizer and saving it"
                    .into(),
            }),
        }
    }

    /// The ids of `text`; special tokens written in it are recognised. `add_special_tokens` adds those that the
    /// tokenizer puts around a sequence, often a BOS, often none.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|e| encode_error(text, &e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of `text` and, for each, the bytes of `text` it stands for (empty for an added token).
    pub fn encode_with_offsets(&self, text: &str, add_special_tokens: bool) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self.inner.encode(text, add_special_tokens).map_err(|e| encode_error(text, &e))?;
        let offsets = encoding.get_offsets().iter().map(|&(begin, end)| begin..end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
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

    /// One more than the largest id: the rows that a model's embedding must have.
    pub fn vocab_size(&self) -> usize {
        self.largest().map_or(0, |(_, id)| id as usize + 1)
    }

    /// Fails if some token's id is not below `vocab_size`, the rows of a model's embedding.
    pub fn check_fits(&self, vocab_size: usize) -> Result<()> {
        match self.largest() {
            Some((token, id)) if id as usize >= vocab_size => Err(TokenizerError::DoesNotFit { token, id, vocab_size }),
            _ => Ok(()),
        }
    }

    fn largest(&self) -> Option<(String, u32)> {
        self.inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id)
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
        self.chat_template.as_deref()
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

fn encode_error(text: &str, error: &tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode { length: text.len(), problem: error.to_string() }
}
