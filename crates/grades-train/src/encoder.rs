//! The model's tokenizer and chat template, as the data ask for them.

use grades_models::tokenizer::Tokenizer;

use crate::data::format::Message;
use crate::data::tokens::{Encode, EncodeError};

/// A tokenizer as [`Encode`].
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a>(pub &'a Tokenizer);

impl Encode for Encoder<'_> {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EncodeError> {
        Ok(self.0.encode(text, add_special_tokens)?)
    }

    fn bos_id(&self) -> Option<u32> {
        self.0.bos_id()
    }

    fn eos_id(&self) -> Option<u32> {
        self.0.eos_id()
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, EncodeError> {
        let _ = (messages, add_generation_prompt);
        Err("chat templates".into())
    }
}
