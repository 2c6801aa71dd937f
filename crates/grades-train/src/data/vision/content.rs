//! What contents in parts hold.

use grades_models::template::Message;
use serde_json::Value;

use super::super::conversation::Conversation;

/// How many pictures a message shows.
pub(super) fn places(message: &Message) -> usize {
    let parts = message.fields().get("content").and_then(Value::as_array);
    parts.map_or(0, |parts| parts.iter().filter(|part| part["type"] == "image").count())
}

/// What a message says.
pub(crate) fn text(message: &Message) -> String {
    match message.fields().get("content") {
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => message.content().to_owned(),
    }
}

/// A message that says `text`.
pub(super) fn with_text(message: &Message, text: &str) -> Message {
    let fields = message.fields().iter().map(|(key, value)| match key.as_str() {
        "content" => (key.clone(), text.into()),
        _ => (key.clone(), value.clone()),
    });
    Message::from_fields(fields.collect::<Vec<_>>())
}

/// A conversation without its pictures.
pub(super) fn in_texts(conversation: &Conversation) -> Conversation {
    let messages = conversation.messages.iter().map(|message| with_text(message, &text(message))).collect();
    Conversation { messages, pictures: Vec::new(), ..conversation.clone() }
}
