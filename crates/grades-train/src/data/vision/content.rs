//! What contents in parts hold.

use grades_models::template::Message;
use serde_json::Value;

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
