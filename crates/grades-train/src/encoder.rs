//! The model's tokenizer and chat template, as the data ask for them.

use grades_models::template::{ChatTemplate, Message, TemplateError};
use grades_models::tokenizer::Tokenizer;

use crate::data::tokens::{Encode, EncodeError};

/// A tokenizer as [`Encode`].
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<Result<ChatTemplate, TemplateError>>,
}

impl<'a> Encoder<'a> {
    /// The encoder of a tokenizer; a chat template that does not parse is an error only where one is needed.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, template: ChatTemplate::of(tokenizer) }
    }
}

impl Encode for Encoder<'_> {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EncodeError> {
        Ok(self.tokenizer.encode(text, add_special_tokens)?)
    }

    fn bos_id(&self) -> Option<u32> {
        self.tokenizer.bos_id()
    }

    fn eos_id(&self) -> Option<u32> {
        self.tokenizer.eos_id()
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, EncodeError> {
        match &self.template {
            None => Err("the model has no chat template; use a data set type without conversations".into()),
            Some(Err(error)) => Err(error.to_string().into()),
            Some(Ok(template)) => Ok(template.render(messages, add_generation_prompt)?),
        }
    }
}
