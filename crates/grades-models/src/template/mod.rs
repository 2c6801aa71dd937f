//! Chat templates: a conversation as the text that the model was trained on.
//!
//! Reference: `apply_chat_template` of transformers 5, which renders the template with Jinja2 (`trim_blocks`,
//! `lstrip_blocks`, loop controls) and a few functions of its own.

mod generation;
mod jinja;
mod json;
mod message;
mod named;
mod python;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use minijinja::{Environment, Value};

use crate::fields::Taken;
use crate::tokenizer::{SpecialTokens, Tokenizer};

pub use message::{Given, Message};
use message::{Noted, THOUGHTS, from_json};
pub use named::NAMED;

/// The name under which the environment knows the template; no ending, so that nothing is escaped.
const NAME: &str = "chat_template";
/// And that for conversations with tools, where there is another.
const WITH_TOOLS: &str = "chat_template_with_tools";

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
}

/// A rendered conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text. Encode it without adding special tokens: the template writes them.
    pub text: String,
    /// Of a template with `{% generation %}` the bytes that stand within such tags, in order: what transformers takes for the
    /// assistant's (`return_assistant_tokens_mask`).
    pub generated: Option<Vec<Range<usize>>>,
    /// What the template did not read of the conversation.
    pub unread: Vec<Unread>,
}

/// A part of a conversation that a template did not read, so that it cannot be in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Index of the message that has it; none, if it belongs to the conversation.
    pub message: Option<usize>,
    /// Its key.
    pub key: String,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    /// Whether it has `{% generation %}`.
    marks: bool,
    /// The same of that for conversations with tools, where there is another.
    with_tools: Option<bool>,
}

impl ChatTemplate {
    /// Compiles the Jinja source; the special tokens are what the template sees as `bos_token` and so on.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<Self> {
        let environment = jinja::environment(NAME, source).map_err(|e| TemplateError::Syntax(jinja::describe(&e)))?;
        Ok(Self { environment, special: special.clone(), marks: generation::is_in(source), with_tools: None })
    }

    /// The template of a tokenizer, if it has one.
    pub fn of(tokenizer: &Tokenizer) -> Option<Result<Self>> {
        let template = Self::new(tokenizer.chat_template()?, tokenizer.special_tokens());
        Some(match tokenizer.tool_template() {
            Some(source) => template.and_then(|template| template.and_for_tools(source)),
            None => template,
        })
    }

    /// With another template for conversations that have tools, as models with templates called `tool_use` want it.
    fn and_for_tools(mut self, source: &str) -> Result<Self> {
        let added = jinja::add(&mut self.environment, WITH_TOOLS, source);
        added.map_err(|e| TemplateError::Syntax(jinja::describe(&e)))?;
        self.with_tools = Some(generation::is_in(source));
        Ok(self)
    }

    /// A conversation as text; `add_generation_prompt` appends what begins the assistant's next turn.
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub fn render(&self, messages: &[Message], given: &Given, add_generation_prompt: bool) -> Result<Rendered> {
        let error =
            |e: minijinja::Error| TemplateError::Render { messages: messages.len(), reason: jinja::describe(&e) };
        let own = |message: &Message| serde_json::to_string(message).is_ok_and(|text| generation::has_marks(&text));
        let (name, marks) = match self.with_tools.filter(|_| given.tools.is_some()) {
            Some(marks) => (WITH_TOOLS, marks),
            None => (NAME, self.marks),
        };
        if marks && messages.iter().any(own) {
            let reason = "a message holds U+FDD0 or U+FDD1, which are no characters; remove them".to_owned();
            return Err(TemplateError::Render { messages: messages.len(), reason });
        }
        let noted: Vec<Arc<Noted>> = messages.iter().map(|message| Arc::new(Noted::new(message.fields()))).collect();
        let mut variables: Vec<(String, Value)> = [
            ("messages", noted.iter().cloned().map(Value::from_dyn_object).collect()),
            ("add_generation_prompt", add_generation_prompt.into()),
            ("tools", given.tools.as_ref().map_or(().into(), from_json)),
            ("documents", ().into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        // A token that the tokenizer does not have is undefined, as in transformers.
        variables.extend(self.special.named().map(|(name, token)| (name.to_owned(), token.into())));
        variables.extend(given.variables.iter().map(|(name, value)| (name.clone(), from_json(value))));
        let variables = Arc::new(Noted::from(variables));
        let template = self.environment.get_template(name).map_err(error)?;
        let text = jinja::render(&template, Value::from_dyn_object(variables.clone())).map_err(error)?;

        let of_message = |(index, (noted, message)): (usize, (&Arc<Noted>, &Message))| -> Vec<Unread> {
            let thought = THOUGHTS.iter().any(|name| noted.taken.left([*name]).is_empty());
            let set = message.fields().iter().filter(|(_, value)| !value.is_null());
            let left = unread(&noted.taken, set.map(|(key, _)| key.as_str()));
            let left = left.filter(|key| !(thought && THOUGHTS.contains(&key.as_str())));
            left.map(|key| Unread { message: Some(index), key }).collect()
        };
        let tools = given.tools.iter().map(|_| "tools");
        let names = tools.chain(given.variables.iter().map(|(name, _)| name.as_str()));
        let of_conversation = unread(&variables.taken, names).map(|key| Unread { message: None, key });
        let of_messages = noted.iter().zip(messages).enumerate().flat_map(of_message);
        let (text, generated) = match marks {
            true => generation::take(&text),
            false => (text, None),
        };
        Ok(Rendered { text, generated, unread: of_conversation.chain(of_messages).collect() })
    }
}

fn unread<'a>(taken: &Taken, names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    taken.left(names).into_iter().map(str::to_owned).collect::<Vec<_>>().into_iter()
}
