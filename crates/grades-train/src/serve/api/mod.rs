//! OpenAI's API: what is asked for, and how it is told.

mod chat;
mod completion;
mod fields;
mod messages;
mod options;
mod reply;

use std::sync::Arc;

pub(super) use options::Options;
pub(super) use reply::Reply;

use super::error::ApiError;
use crate::data::Placed;
use crate::data::conversation::Conversation;

/// Which of the two ways of asking, and of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// A prompt before it is tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Prompt {
    /// What the assistant is to answer.
    Conversation(Box<Conversation>),
    /// A text to go on with.
    Text(String),
    /// One that is tokens already.
    Tokens(Vec<u32>),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// In which of the ways.
    pub(super) kind: Kind,
    /// The model's name.
    pub(super) model: Option<String>,
    /// One, or several of which each has answers of its own.
    pub(super) prompts: Vec<Prompt>,
    /// How they are written.
    pub(super) options: Options,
    /// Of how many other tokens is told how likely they were; none, if of none at all.
    pub(super) logprobs: Option<usize>,
    /// Whether the text begins with the prompt.
    pub(super) echo: bool,
}

impl Asked {
    /// The request in a body.
    ///
    /// # Errors
    /// The body is no request of that kind, or wants what is not there.
    pub(super) fn parse(kind: Kind, body: &[u8]) -> Result<Self, ApiError> {
        match kind {
            Kind::Chat => chat::parse(body),
            Kind::Completion => completion::parse(body),
        }
    }
}

/// A prompt as tokens.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    /// The tokens.
    pub(super) ids: Arc<Vec<u32>>,
    /// The pictures among them.
    pub(super) pictures: Arc<Vec<Placed>>,
    /// The text, where it is told again.
    pub(super) text: String,
}
