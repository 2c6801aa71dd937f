//! Rows that hold conversations, in the spellings of OpenAI, ShareGPT and the tools that read them.

use grades_models::template::{Given, Message};
use serde_json::{Map, Value};

use super::error::DataError;
use super::record::Record;

/// The columns of a conversation.
#[derive(Clone, Debug)]
pub struct Columns {
    /// Column of the list of messages.
    pub messages: String,
    /// Key of a message's role.
    pub role: String,
    /// Key of a message's text.
    pub content: String,
}

/// A conversation, to be rendered by the model's chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Its messages.
    pub messages: Vec<Message>,
    /// For each whether it is to be learnt.
    pub learnt: Vec<bool>,
    /// What else the template gets.
    pub given: Given,
}

/// The role whose messages are learnt.
pub(super) const ASSISTANT: &str = "assistant";

/// Column of the system message, for conversations without one, as LLaMA-Factory has it.
const SYSTEM: &str = "system";
/// Column of the tools, a list or JSON, as in TRL and LLaMA-Factory.
const TOOLS: &str = "tools";
/// Column of variables for the template, as in TRL.
const VARIABLES: &str = "chat_template_kwargs";

/// Keys that say of a message whether it is to be learnt: of OpenAI, of Axolotl (two), of ms-swift.
pub(super) const MARKS: [&str; 4] = ["weight", "train", "training", "loss"];

/// Keys that say it of parts, or otherwise than by yes and no.
const OTHER_MARKS: [&str; 7] =
    ["train_detail", "loss_scale", "loss_mask", "mask", "masked", "loss_weight", "trainable"];

/// Keys of what is said beside text.
const MEDIA: [&str; 8] = ["image", "images", "video", "videos", "audio", "audios", "image_url", "objects"];

impl Columns {
    /// The conversation of a row; `role_of` gives a speaker the role that templates know.
    ///
    /// # Errors
    /// A message is not usable, or there is none to learn.
    pub(super) fn conversation(
        &self,
        record: &Record,
        role_of: fn(&str) -> Option<&str>,
    ) -> Result<Conversation, DataError> {
        let mut conversation = Conversation::default();
        let messages = record.objects(&self.messages)?;
        if messages.is_empty() {
            return Err(record.error(format!("`{}` holds no messages; remove the row", self.messages)));
        }
        for (number, message) in (1..).zip(messages) {
            let fail = |problem: String| record.error(format!("message {number} in `{}` {problem}", self.messages));
            let (message, learnt) = self.message(message, role_of).map_err(fail)?;
            conversation.messages.push(message);
            conversation.learnt.push(learnt);
        }
        if !conversation.messages.iter().any(|message| message.role() == ASSISTANT) {
            return Err(record.error(format!(
                "`{}` has no message of the assistant, so there is nothing to learn; remove the row",
                self.messages
            )));
        }
        self.add_system(record, &mut conversation)?;
        conversation.given = Given { tools: tools(record)?, variables: variables(record)? };
        Ok(conversation)
    }

    /// A message, and whether it is to be learnt.
    fn message(
        &self,
        fields: &Map<String, Value>,
        role_of: fn(&str) -> Option<&str>,
    ) -> Result<(Message, bool), String> {
        let found = || fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let missing = |key: &str| format!("has no text `{key}`; it has {}", found());
        let speaker = fields.get(&self.role).and_then(Value::as_str).ok_or_else(|| missing(&self.role))?;
        let role = role_of(speaker).ok_or_else(|| unknown_speaker(speaker))?.to_owned();
        let calls = ["tool_calls", "function_call"].iter().any(|key| fields.get(*key).is_some_and(|v| !v.is_null()));
        let content = match fields.get(&self.content) {
            Some(Value::String(text)) => Some(Value::String(text.clone())),
            Some(Value::Array(parts)) => Some(Value::String(text_of(parts)?)),
            Some(Value::Null) if calls => Some(Value::Null),
            None if calls => None,
            _ => return Err(missing(&self.content)),
        };
        let of_assistant = role == ASSISTANT;
        let mut learnt = of_assistant;
        let mut kept = vec![("role".to_owned(), Value::String(role))];
        kept.extend(content.map(|content| ("content".to_owned(), content)));
        for (key, value) in
            fields.iter().filter(|(key, value)| **key != self.role && **key != self.content && !value.is_null())
        {
            match key.as_str() {
                "role" | "content" => return Err(format!("has both `{key}` and what stands for it; remove one")),
                mark if MARKS.contains(&mark) => learnt &= marked(mark, value, of_assistant)?,
                mark if OTHER_MARKS.contains(&mark) => {
                    return Err(format!(
                        "has `{mark}`, which is not supported; mark a whole message by `train: false` or `weight: 0`"
                    ));
                }
                media if MEDIA.contains(&media) && !is_empty(value) => {
                    return Err(format!("has `{media}`, but only text can be learnt; remove the row"));
                }
                _ => kept.push((key.clone(), value.clone())),
            }
        }
        Ok((Message::from_fields(kept), learnt))
    }

    /// Puts the row's system message in front, if the conversation does not begin with one.
    fn add_system(&self, record: &Record, conversation: &mut Conversation) -> Result<(), DataError> {
        let Some(text) = record.optional_text(SYSTEM)?.filter(|text| !text.trim().is_empty()) else { return Ok(()) };
        match conversation.messages.first() {
            Some(first) if first.role() == "system" && first.content() == text => {}
            Some(first) if first.role() == "system" => {
                return Err(record.error(format!(
                    "column `{SYSTEM}` says something else than the system message in `{}`; remove one of them",
                    self.messages
                )));
            }
            _ => {
                conversation.messages.insert(0, Message::new("system", text));
                conversation.learnt.insert(0, false);
            }
        }
        Ok(())
    }
}

fn unknown_speaker(speaker: &str) -> String {
    match speaker {
        "function_call" | "observation" => format!(
            "is from `{speaker}`; write it as type messages has it: `tool_calls` of the assistant, and role `tool`"
        ),
        _ => format!("is from `{speaker}`; known are human, gpt, system and tool"),
    }
}

/// Whether a message with such a mark is to be learnt.
fn marked(key: &str, value: &Value, of_assistant: bool) -> Result<bool, String> {
    let learnt = match value {
        Value::Bool(learnt) => Some(*learnt),
        Value::Number(weight) => [(0.0, false), (1.0, true)]
            .into_iter()
            .find(|(known, _)| weight.as_f64() == Some(*known))
            .map(|(_, learnt)| learnt),
        _ => None,
    };
    match learnt {
        Some(learnt) if of_assistant || !learnt => Ok(learnt),
        Some(_) if key == "weight" || key == "loss" => Ok(false),
        Some(_) => Err(format!("is marked by `{key}` as to be learnt, which only the assistant's are")),
        None => Err(format!("has `{key}: {value}`; it must be 0 or false, or 1 or true")),
    }
}

/// The text of a content in parts, if it has nothing else.
fn text_of(parts: &[Value]) -> Result<String, String> {
    let text = |part: &Value| match part {
        Value::String(text) => Ok(text.clone()),
        _ => match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text") | None, Some(text)) => Ok(text.to_owned()),
            (kind, _) => Err(format!(
                "has a part of type {}, but only text can be learnt; remove the row",
                kind.unwrap_or("unknown")
            )),
        },
    };
    parts.iter().map(text).collect()
}

fn tools(record: &Record) -> Result<Option<Value>, DataError> {
    let wrong = || record.error(format!("column `{TOOLS}` must hold a list of tools, or one as JSON"));
    match record.optional(TOOLS)? {
        None => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => {
            serde_json::from_str(text).ok().filter(Value::is_array).map(Some).ok_or_else(wrong)
        }
        Some(tools @ Value::Array(_)) => Ok(Some(tools.clone())),
        Some(_) => Err(wrong()),
    }
}

fn variables(record: &Record) -> Result<Map<String, Value>, DataError> {
    match record.optional(VARIABLES)? {
        None => Ok(Map::new()),
        Some(Value::Object(variables)) => Ok(variables.clone()),
        Some(_) => Err(record.error(format!("column `{VARIABLES}` must hold an object"))),
    }
}

/// Whether a value says nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
