//! Chat templates: a conversation as the text that the model was trained on.
//!
//! Reference: `apply_chat_template` of transformers 5, which renders the template with Jinja2 (`trim_blocks`,
//! `lstrip_blocks`, loop controls) and a few functions of its own.

mod jinja;
#[cfg(test)]
mod tests;

use std::ops::Range;

use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::tokenizer::{SpecialTokens, Tokenizer};

/// The name under which the environment knows the template; no ending, so that nothing is escaped.
const NAME: &str = "chat_template";
/// The role whose turns the model is to produce.
const ASSISTANT: &str = "assistant";

/// Result of rendering a conversation.
pub type Result<T, E = TemplateError> = std::result::Result<T, E>;

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template's syntax is wrong or unknown.
    #[error("the chat template does not parse: {0}; give the model folder a corrected chat_template.jinja")]
    Syntax(String),
    /// Rendering failed, often because the template itself refuses the conversation.
    #[error("the chat template refuses this conversation of {messages} messages: {reason}")]
    Render {
        /// The number of messages.
        messages: usize,
        /// The template's reason.
        reason: String,
    },
    /// Turns cannot be told apart, because a later message changes how an earlier one is rendered.
    #[error(
        "the chat template renders message {message} differently once another follows, so the assistant's part cannot \
         be told; train on the whole text, or give the model folder a template without that"
    )]
    NotIncremental {
        /// Index of the message.
        message: usize,
    },
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or whatever else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role` saying `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles the Jinja source; the special tokens are what the template sees as `bos_token` and so on.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self> {
        let environment = jinja::environment(NAME, source).map_err(|e| TemplateError::Syntax(jinja::describe(&e)))?;
        Ok(Self { environment, special: special.clone() })
    }

    /// The template of a tokenizer, if it has one.
    pub fn of(tokenizer: &Tokenizer) -> Option<Result<Self>> {
        tokenizer.chat_template().map(|source| Self::new(source, tokenizer.special_tokens()))
    }

    /// The text of a conversation; `add_generation_prompt` appends what begins the assistant's next turn.
    ///
    /// Encode it without adding special tokens: the template writes them.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let error =
            |e: minijinja::Error| TemplateError::Render { messages: messages.len(), reason: jinja::describe(&e) };
        let list: Value = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let mut variables = vec![
            ("messages", list),
            ("add_generation_prompt", add_generation_prompt.into()),
            ("tools", ().into()),
            ("documents", ().into()),
        ];
        // A token that the tokenizer does not have is undefined, as in transformers.
        let SpecialTokens { bos, eos, unk, pad } = &self.special;
        let tokens = [("bos_token", bos), ("eos_token", eos), ("unk_token", unk), ("pad_token", pad)];
        variables.extend(tokens.into_iter().filter_map(|(name, token)| Some((name, token.as_deref()?.into()))));
        let template = self.environment.get_template(NAME).map_err(error)?;
        template.render(Value::from_pairs(variables)).map_err(error)
    }

    /// The text of a whole conversation and the byte ranges that the assistant produces: each from behind the
    /// generation prompt to the end of the turn, with the token that ends it and what the template puts behind that.
    ///
    /// # Errors
    /// If the template refuses the conversation or one of its beginnings, or changes earlier turns when others follow.
    pub fn render_with_assistant_spans(&self, messages: &[Message]) -> Result<(String, Vec<Range<usize>>)> {
        let text = self.render(messages, false)?;
        let mut spans = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.role == ASSISTANT) {
            let not_incremental = || TemplateError::NotIncremental { message: i };
            let begin = match i {
                // Many templates refuse an empty conversation; then nothing but the turn itself is known.
                0 => self.render(&[], true).map_or(0, |prompt| common_prefix(&prompt, &text)),
                _ => {
                    let before = self.render(&messages[..i], false)?;
                    // The prompt may hold more than every answer begins with, such as an opened thought.
                    let begin = common_prefix(&self.render(&messages[..i], true)?, &text);
                    if common_prefix(&before, &text) < before.len() || begin < before.len() {
                        return Err(not_incremental());
                    }
                    begin
                }
            };
            let end = match i + 1 == messages.len() {
                true => text.len(),
                false => Some(self.render(&messages[..=i], false)?)
                    .filter(|until| text.starts_with(until.as_str()))
                    .ok_or_else(not_incremental)?
                    .len(),
            };
            // Text between must be this turn's, or the prompt was taken for the answer.
            if end < begin || !text[begin..end].contains(message.content.trim()) {
                return Err(not_incremental());
            }
            spans.push(begin..end);
        }
        Ok((text, spans))
    }
}

/// Bytes in which both texts agree from the beginning, up to a character.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}
