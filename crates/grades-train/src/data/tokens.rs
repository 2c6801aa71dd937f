//! Samples as tokens with labels.

use std::error::Error;

use super::format::{Message, Sample};
use super::template;

/// The label of a token that does not count in the loss, as in PyTorch.
pub const NO_LOSS: i64 = -100;

/// What the data need from a tokenizer, of which several threads may ask.
pub trait Encode: Sync {
    /// The tokens of `text`; with `add_special_tokens` also those that the tokenizer puts around a text, such as BOS.
    ///
    /// # Errors
    /// The tokenizer cannot encode the text.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EncodeError>;

    /// The beginning-of-text token, where the model has one.
    fn bos_id(&self) -> Option<u32>;

    /// The end-of-text token, where the model has one.
    fn eos_id(&self) -> Option<u32>;

    /// The text of a conversation by the model's chat template, special tokens written out.
    ///
    /// # Errors
    /// The model has no chat template, or the template refuses the conversation.
    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, EncodeError>;
}

/// Why a tokenizer or a chat template failed.
pub type EncodeError = Box<dyn Error + Send + Sync>;

/// A sample as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokenized {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each token itself if the model is to learn to write it, else [`NO_LOSS`]. Not yet shifted:
    /// [`Batch`](super::Batch) moves each label to the token before it.
    pub labels: Vec<i64>,
}

impl Tokenized {
    /// How many tokens count in the loss. The first never does: nothing comes before it.
    pub fn label_count(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != NO_LOSS).count()
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        self.labels.truncate(len);
    }

    fn push(&mut self, ids: &[u32], trained: bool) {
        self.ids.extend_from_slice(ids);
        self.labels.extend(ids.iter().map(|id| if trained { i64::from(*id) } else { NO_LOSS }));
    }
}

/// Encodes a sample. The parts are encoded one by one, so that a prompt has the tokens that it has when the model is
/// used; the special tokens that the tokenizer puts around a text come with the first part only; the end-of-text token
/// follows the last, with loss. A rendered conversation carries its special tokens in the text, and gets none.
///
/// # Errors
/// A sentence: the tokenizer or the chat template failed.
pub(super) fn tokenize(sample: &Sample, encoder: &dyn Encode, train_on_inputs: bool) -> Result<Tokenized, String> {
    let rendered;
    let (parts, plain) = match sample {
        Sample::Text(parts) => (parts, true),
        Sample::Conversation(messages) => {
            rendered =
                if train_on_inputs { template::whole(messages, encoder)? } else { template::parts(messages, encoder)? };
            (&rendered, false)
        }
    };
    let mut tokens = Tokenized::default();
    for (index, part) in parts.iter().enumerate() {
        let ids = encoder
            .encode(&part.text, plain && index == 0)
            .map_err(|error| format!("the tokenizer cannot encode the text ({error})"))?;
        tokens.push(&ids, part.trained || train_on_inputs);
    }
    if let (true, Some(eos)) = (plain, encoder.eos_id()) {
        tokens.push(&[eos], true);
    }
    Ok(tokens)
}
