//! The model's tokenizer and chat template, as the data ask for them.

use grades_models::template::{ChatTemplate, Given, Message, Rendered, TemplateError};
use grades_models::tokenizer::{Around, Encoded, Tokenizer};

use crate::data::encode::{Encode, EncodeError};

/// A tokenizer as [`Encode`].
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Rows of the model's embedding.
    vocab_size: usize,
    template: Option<Result<ChatTemplate, TemplateError>>,
}

impl<'a> Encoder<'a> {
    /// The encoder of a tokenizer for a model with `vocab_size` tokens; a chat template that does not parse is an error only
    /// where one is needed.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer, vocab_size: usize) -> Self {
        Self { tokenizer, vocab_size, template: ChatTemplate::of(tokenizer) }
    }
}

impl Encode for Encoder<'_> {
    fn encode(&self, text: &str, around: Around) -> Result<Encoded, EncodeError> {
        let encoded = self.tokenizer.encode_text(text, around)?;
        self.tokenizer.check_rows(&encoded.ids, self.vocab_size)?;
        Ok(encoded)
    }

    fn bos_id(&self) -> Option<u32> {
        self.tokenizer.bos_id()
    }

    fn eos_id(&self) -> Option<u32> {
        self.tokenizer.eos_id()
    }

    fn render(
        &self,
        messages: &[Message],
        given: &Given,
        add_generation_prompt: bool,
    ) -> Result<Rendered, EncodeError> {
        match &self.template {
            None => Err("the model has no chat template; use a data set type without conversations".into()),
            Some(Err(error)) => Err(error.to_string().into()),
            Some(Ok(template)) => Ok(template.render(messages, given, add_generation_prompt)?),
        }
    }
}
