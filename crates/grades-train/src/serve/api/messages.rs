//! The messages of a chat as a conversation for the model's template.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grades_models::template::{Given, Message};
use serde_json::{Map, Value};

use super::fields::Fields;
use crate::data::conversation::Conversation;
use crate::data::{MARKER, Picture};
use crate::serve::error::ApiError;

/// Most messages.
const MESSAGES: usize = 10_000;

fn wrong(index: usize, problem: impl std::fmt::Display) -> ApiError {
    let mut error = ApiError::field("messages", format_args!("has as message {} one that {problem}", index + 1));
    error.param = Some(format!("messages[{index}]"));
    error
}

/// Takes the conversation from a request.
pub(super) fn take(fields: &mut Fields) -> Result<Conversation, ApiError> {
    let messages = match fields.take("messages") {
        Some(Value::Array(messages)) if (1..=MESSAGES).contains(&messages.len()) => messages,
        Some(Value::Array(_)) => {
            return Err(ApiError::field("messages", format_args!("must have 1 to {MESSAGES} messages")));
        }
        Some(_) | None => return Err(ApiError::field("messages", "must be a list of messages")),
    };
    let mut conversation = Conversation::default();
    for (index, message) in messages.into_iter().enumerate() {
        let Value::Object(message) = message else { return Err(wrong(index, "is not an object")) };
        add(&mut conversation, message).map_err(|problem| wrong(index, problem))?;
    }
    conversation.given = Given { tools: tools(fields)?, variables: variables(fields)? };
    Ok(conversation)
}

/// Adds a message, with all that a template may read of it.
fn add(conversation: &mut Conversation, mut message: Map<String, Value>) -> Result<(), String> {
    message.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
    let role = match message.shift_remove("role").as_ref().and_then(Value::as_str) {
        Some("developer") => "system".to_owned(),
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role.to_owned(),
        Some(role) => {
            return Err(format!("is of role {role:?}; known are system, developer, user, assistant and tool"));
        }
        None => return Err("has no `role`".to_owned()),
    };
    let (text, pictures) = match message.shift_remove("content") {
        Some(Value::String(text)) => (Some(text), Vec::new()),
        Some(Value::Array(parts)) => {
            let (text, pictures) = said(&parts)?;
            (Some(text), pictures)
        }
        None if message.contains_key("tool_calls") => (None, Vec::new()),
        None => return Err("has no `content`".to_owned()),
        Some(_) => return Err("has a `content` that is neither a text nor a list of parts".to_owned()),
    };
    if let Some(calls) = message.get_mut("tool_calls") {
        read_arguments(calls);
    }
    if !pictures.is_empty() {
        if !message.is_empty() {
            return Err("has pictures and more than a `content` beside them".to_owned());
        }
        return conversation.say(&role, &text.unwrap_or_default(), pictures);
    }
    conversation.learnt.push(false);
    let said = [("role".to_owned(), role.into()), ("content".to_owned(), text.map_or(Value::Null, Value::String))];
    conversation.messages.push(Message::from_fields(said.into_iter().chain(message)));
    Ok(())
}

/// What the parts of a content say, a marker for each picture, a line each.
fn said(parts: &[Value]) -> Result<(String, Vec<Picture>), String> {
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for part in parts {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => texts.push(text.to_owned()),
            (Some("image_url"), _) => {
                let url = part["image_url"]["url"].as_str().or_else(|| part["image_url"].as_str());
                pictures.push(picture(url.unwrap_or_default())?);
                texts.push(MARKER.to_owned());
            }
            (kind, _) => {
                return Err(format!("has a part of type {kind:?}; known are text (with `text`) and image_url"));
            }
        }
    }
    if !pictures.is_empty() && texts.iter().filter(|text| text.contains(MARKER)).count() > pictures.len() {
        return Err(format!("says {MARKER} beside pictures, which stands for one; take it out of the text"));
    }
    Ok((texts.join("\n"), pictures))
}

/// The picture in a URL that holds it.
fn picture(url: &str) -> Result<Picture, String> {
    let encoded = url.strip_prefix("data:image/").and_then(|rest| rest.split_once(";base64,"));
    let Some((_, encoded)) = encoded else {
        return Err(
            "has a picture that is elsewhere, and none are fetched; send it along, as `data:image/png;base64,…`"
                .to_owned(),
        );
    };
    let bytes = STANDARD.decode(encoded).map_err(|error| format!("has a picture whose base64 is broken ({error})"))?;
    Ok(Picture::Bytes(bytes.into()))
}

/// Arguments of calls are JSON in a text on the way; templates read what they say.
fn read_arguments(calls: &mut Value) {
    for call in calls.as_array_mut().into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Some(object @ Value::Object(_)) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
        {
            *arguments = object;
        }
    }
}

fn tools(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let tools = match fields.take("tools") {
        None => None,
        Some(Value::Array(tools)) if tools.iter().all(Value::is_object) => {
            Some(Value::Array(tools)).filter(|tools| tools.as_array().is_some_and(|list| !list.is_empty()))
        }
        Some(_) => return Err(ApiError::field("tools", "must be a list of objects")),
    };
    match fields.take("tool_choice") {
        None => Ok(tools),
        Some(choice) if choice == "auto" => Ok(tools),
        Some(choice) if choice == "none" => Ok(None),
        Some(_) => Err(ApiError::unsupported("tool_choice", "give \"auto\" or \"none\", or leave it out")),
    }
}

fn variables(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    match fields.take("chat_template_kwargs") {
        None => Ok(Map::new()),
        Some(Value::Object(variables)) => Ok(variables),
        Some(_) => Err(ApiError::field("chat_template_kwargs", "must be an object")),
    }
}
