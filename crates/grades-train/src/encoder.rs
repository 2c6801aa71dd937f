//! The model's tokenizer and chat template, as the data ask for them.

use grades_models::template::{ChatTemplate, Given, Message, Rendered, TemplateError};
use grades_models::tokenizer::{Around, Encoded, Tokenizer};
use serde_json::{Map, Value};

use crate::data::encode::{Encode, EncodeError};

/// A tokenizer as [`Encode`].
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Rows of the model's embedding.
    vocab_size: usize,
    template: Option<Result<ChatTemplate, TemplateError>>,
    /// Variables of the template, which those of a conversation come before.
    variables: Map<String, Value>,
}

impl<'a> Encoder<'a> {
    /// The encoder of a tokenizer for a model with `vocab_size` tokens; a chat template that does not parse is an error only
    /// where one is needed.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer, vocab_size: usize) -> Self {
        Self { tokenizer, vocab_size, template: ChatTemplate::of(tokenizer), variables: Map::new() }
    }

    /// With variables for the chat template, which those of a conversation come before.
    #[must_use]
    pub fn with_variables(self, variables: Map<String, Value>) -> Self {
        Self { variables, ..self }
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

    fn is_special(&self, id: u32) -> bool {
        self.tokenizer.is_special(id)
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
            Some(Ok(template)) if self.variables.is_empty() => {
                Ok(template.render(messages, given, add_generation_prompt)?)
            }
            Some(Ok(template)) => {
                let mut variables = self.variables.clone();
                variables.extend(given.variables.clone());
                let given = Given { tools: given.tools.clone(), variables };
                Ok(template.render(messages, &given, add_generation_prompt)?)
            }
        }
    }
}
