//! What the data ask of a tokenizer, and what comes of it.

use std::error::Error;

use grades_models::template::{Given, Message, Rendered};
pub use grades_models::tokenizer::{Around, Encoded};
use grades_tensor::IGNORE_INDEX;

use super::placed::Placed;

/// What the data need from a tokenizer, of which several threads may ask.
pub trait Encode: Sync {
    /// The tokens of a whole text, and of those around it what `around` asks for and the text does not have itself.
    ///
    /// # Errors
    /// The tokenizer cannot encode the text, or the model does not have one of its tokens.
    fn encode(&self, text: &str, around: Around) -> Result<Encoded, EncodeError>;

    /// The beginning-of-text token, where the model has one.
    fn bos_id(&self) -> Option<u32>;

    /// The end-of-text token, where the model has one.
    fn eos_id(&self) -> Option<u32>;

    /// Whether a token is a special one, as those are that end turns.
    fn is_special(&self, id: u32) -> bool {
        self.eos_id() == Some(id)
    }

    /// A conversation by the model's chat template, special tokens written out.
    ///
    /// # Errors
    /// The model has no chat template, or the template refuses the conversation.
    fn render(&self, messages: &[Message], given: &Given, add_generation_prompt: bool)
    -> Result<Rendered, EncodeError>;
}

/// Why a tokenizer or a chat template failed.
pub type EncodeError = Box<dyn Error + Send + Sync>;

/// A sample as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokenized {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each token itself if the model is to learn to write it, else [`IGNORE_INDEX`]. Not yet shifted:
    /// [`Batch`](super::Batch) moves each label to the token before it.
    pub labels: Vec<i64>,
    /// The pictures that take the place of some of the tokens, in their order.
    pub pictures: Vec<Placed>,
}

impl Tokenized {
    /// How many tokens count in the loss. The first never does: nothing comes before it.
    pub fn label_count(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORE_INDEX).count()
    }

    /// How many tokens the model must read: all before the last label.
    pub fn inputs(&self) -> usize {
        self.labels.iter().rposition(|label| *label != IGNORE_INDEX).unwrap_or(0)
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        self.labels.truncate(len);
    }
}
