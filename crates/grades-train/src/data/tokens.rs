//! Samples as tokens with labels.

use std::error::Error;
use std::ops::Range;

use grades_models::template::{Given, Message, Rendered};
pub use grades_models::tokenizer::{Around, Encoded};

use super::format::{Sample, Written};
use super::template;

/// The label of a token that does not count in the loss, as in PyTorch.
pub const NO_LOSS: i64 = -100;

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
}

/// Encodes a sample as one text, and labels by their bytes the tokens that are to be learnt: those that begin and end within
/// them. So the tokens of a sample are those of its whole text, and a token that lies across the end of the prompt is the
/// prompt's. What belongs around a text is there once, whether the tokenizer puts it there or the row has it written out; the
/// end-of-text token is learnt. A rendered conversation carries its special tokens in the text, and gets none.
///
/// # Errors
/// A sentence: the tokenizer or the chat template failed.
pub(super) fn tokenize(sample: &Sample, encoder: &dyn Encode, train_on_inputs: bool) -> Result<Tokenized, String> {
    let (written, around) = match sample {
        Sample::Text(written) if train_on_inputs => (Written::whole(written.text.clone()), Around::Sample),
        Sample::Text(written) => (written.clone(), Around::Sample),
        Sample::Conversation(conversation) if train_on_inputs => {
            (template::whole(conversation, encoder)?, Around::Template)
        }
        Sample::Conversation(conversation) => (template::turns(conversation, encoder)?, Around::Template),
    };
    let Encoded { ids, ranges } =
        encoder.encode(&written.text, around).map_err(|error| format!("the text cannot be encoded ({error})"))?;
    let learnt =
        |range: &Range<usize>| written.learnt.iter().any(|all| all.start <= range.start && range.end <= all.end);
    let label = |(id, range): (&u32, &Range<usize>)| if learnt(range) { i64::from(*id) } else { NO_LOSS };
    let labels = ids.iter().zip(&ranges).map(label).collect();
    Ok(Tokenized { ids, labels })
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
