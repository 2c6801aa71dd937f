//! Rows that hold conversations, in the spellings of OpenAI, ShareGPT and the tools that read them.

use std::collections::BTreeMap;

use grades_models::template::{Given, Message};
use serde_json::{Map, Value};

use super::eos::TrainOnEos;
use super::error::DataError;
use super::parts::{self, Part};
use super::picture::{Picture, PictureColumns};
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
    /// Where its pictures are.
    pub pictures: PictureColumns,
    /// Column of the system's message, for conversations without one, as in LLaMA-Factory.
    pub system: String,
    /// Column of the tools, a list or JSON, as in TRL and LLaMA-Factory.
    pub tools: String,
    /// Roles whose messages are learnt, unless they are marked otherwise.
    pub learnt_roles: Vec<String>,
    /// A further key that says of a message whether it is to be learnt.
    pub training: Option<String>,
    /// For what a template reads of a message the key that it has in the data.
    pub properties: BTreeMap<String, String>,
    /// For roles the names that the data have for them, before those that the type knows.
    pub speakers: BTreeMap<String, Vec<String>>,
    /// Of which turns the end is learnt.
    pub train_on_eos: TrainOnEos,
}

/// A conversation, to be rendered by the model's chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Its messages.
    pub messages: Vec<Message>,
    /// For each whether it is to be learnt.
    pub learnt: Vec<bool>,
    /// Of which turns the token that ends them is learnt.
    pub train_on_eos: TrainOnEos,
    /// What else the template gets.
    pub given: Given,
    /// The pictures, in the order of the parts of type `image` that stand for them in the messages.
    pub pictures: Vec<Picture>,
}

/// A message before its pictures are known to be there.
struct Read {
    fields: Vec<(String, Value)>,
    /// What it says in parts, and where among its fields that goes.
    content: Option<(usize, Vec<Part>)>,
    learnt: bool,
}

/// The role whose messages are learnt.
pub(super) const ASSISTANT: &str = "assistant";

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
        let messages = record.objects(&self.messages)?;
        if messages.is_empty() {
            return Err(record.error(format!("`{}` holds no messages; remove the row", self.messages)));
        }
        let pictures = self.pictures.of(record).map_err(|problem| record.error(problem))?;
        let mut read = Vec::with_capacity(messages.len());
        for (number, message) in (1..).zip(messages) {
            let fail = |problem: String| record.error(format!("message {number} in `{}` {problem}", self.messages));
            let of_part = |value: &Value| self.pictures.picture(value, record);
            read.push(self.message(message, role_of, pictures.is_some(), &of_part).map_err(fail)?);
        }
        let mut conversation = with_pictures(read, pictures.unwrap_or_default()).map_err(|problem| {
            record.error(format!("`{}` {problem}; make them agree, or remove the row", self.messages))
        })?;
        let of_role = |message: &Message| self.learnt_roles.iter().any(|role| role == message.role());
        if !conversation.messages.iter().any(of_role) && !conversation.learnt.contains(&true) {
            let roles = match self.learnt_roles.as_slice() {
                [] => "that is marked as to be learnt".to_owned(),
                roles => format!("of the {}", roles.join(" or ")),
            };
            return Err(record.error(format!(
                "`{}` has no message {roles}, so there is nothing to learn; remove the row",
                self.messages
            )));
        }
        self.add_system(record, &mut conversation)?;
        conversation.train_on_eos = self.train_on_eos;
        conversation.given = Given { tools: self.tools(record)?, variables: variables(record)? };
        Ok(conversation)
    }

    /// A message; its texts have markers for pictures where the row has a column of them.
    fn message<'a>(
        &'a self,
        fields: &'a Map<String, Value>,
        role_of: fn(&str) -> Option<&str>,
        has_pictures: bool,
        picture: &dyn Fn(&Value) -> Result<Picture, String>,
    ) -> Result<Read, String> {
        let found = || fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let missing = |key: &str| format!("has no text `{key}`; it has {}", found());
        let speaker = fields.get(&self.role).and_then(Value::as_str).ok_or_else(|| missing(&self.role))?;
        let named = self.speakers.iter().find(|(_, names)| names.iter().any(|name| name == speaker));
        let role = named.map(|(role, _)| role.as_str()).or_else(|| role_of(speaker));
        let role = role.ok_or_else(|| unknown_speaker(speaker))?.to_owned();
        let name_of = |key: &'a str| -> &'a str {
            let mapped = self.properties.iter().find(|(_, from)| from.as_str() == key);
            mapped.map_or(key, |(property, _)| property.as_str())
        };
        let calls = fields
            .iter()
            .any(|(key, value)| ["tool_calls", "function_call"].contains(&name_of(key)) && !value.is_null());
        let of_role = self.learnt_roles.contains(&role);
        let mut marks = Vec::new();
        let mut read = Read { fields: vec![("role".to_owned(), Value::String(role))], content: None, learnt: of_role };
        let with_markers = |part: Part| match part {
            Part::Text(text) if has_pictures => parts::by_markers(&text),
            part => vec![part],
        };
        let said = match fields.get(&self.content) {
            Some(Value::String(text)) => Some(vec![Part::Text(text.clone())]),
            Some(Value::Array(all)) => Some(parts::of_content(all, picture)?),
            Some(Value::Null) if calls => {
                read.fields.push(("content".to_owned(), Value::Null));
                None
            }
            None if calls => None,
            _ => return Err(missing(&self.content)),
        };
        if let Some(said) = said {
            read.content = Some((read.fields.len(), said.into_iter().flat_map(with_markers).collect()));
        }
        for (key, value) in
            fields.iter().filter(|(key, value)| **key != self.role && **key != self.content && !value.is_null())
        {
            let mapped = self.properties.values().any(|from| from == key);
            if !mapped && self.properties.contains_key(key) {
                return Err(format!("has both `{key}` and what message_property_mappings names for it; remove one"));
            }
            match name_of(key) {
                "role" | "content" => return Err(format!("has both `{key}` and what stands for it; remove one")),
                mark if self.training.as_deref() == Some(key.as_str()) => marks.push(marked(mark, value, true)?),
                mark if MARKS.contains(&mark) => marks.push(marked(mark, value, mark.starts_with("train"))?),
                mark if OTHER_MARKS.contains(&mark) => {
                    return Err(format!(
                        "has `{mark}`, which is not supported; mark a whole message by `train: false` or `weight: 0`"
                    ));
                }
                media if MEDIA.contains(&media) && !is_empty(value) => {
                    return Err(format!(
                        "has `{media}` beside its content, which is not read; give pictures as parts of the content, or as \
                         column `images` of the row, and remove what is neither text nor a picture"
                    ));
                }
                name => read.fields.push((name.to_owned(), value.clone())),
            }
        }
        read.learnt = (of_role || marks.contains(&Some(true))) && !marks.contains(&Some(false));
        Ok(read)
    }

    /// Puts the row's system message in front, if the conversation does not begin with one.
    fn add_system(&self, record: &Record, conversation: &mut Conversation) -> Result<(), DataError> {
        let Some(text) = record.optional_text(&self.system)?.filter(|text| !text.trim().is_empty()) else {
            return Ok(());
        };
        match conversation.messages.first() {
            Some(first) if first.role() == "system" && first.content() == text => {}
            Some(first) if first.role() == "system" => {
                return Err(record.error(format!(
                    "column `{}` says something else than the system message in `{}`; remove one of them",
                    self.system, self.messages
                )));
            }
            _ => {
                conversation.messages.insert(0, Message::new("system", text));
                conversation.learnt.insert(0, self.learnt_roles.iter().any(|role| role == "system"));
            }
        }
        Ok(())
    }

    fn tools(&self, record: &Record) -> Result<Option<Value>, DataError> {
        let wrong = || record.error(format!("column `{}` must hold a list of tools, or one as JSON", self.tools));
        match record.optional(&self.tools)? {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => {
                serde_json::from_str(text).ok().filter(Value::is_array).map(Some).ok_or_else(wrong)
            }
            Some(tools @ Value::Array(_)) => Ok(Some(tools.clone())),
            Some(_) => Err(wrong()),
        }
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

/// Whether a message with such a mark is to be learnt; `None` if the mark leaves that to its role. One that `decides` makes a message
/// of any role learnt; a weight only takes messages away.
fn marked(key: &str, value: &Value, decides: bool) -> Result<Option<bool>, String> {
    let learnt = match value {
        Value::Bool(learnt) => Some(*learnt),
        Value::Number(weight) => [(0.0, false), (1.0, true)]
            .into_iter()
            .find(|(known, _)| weight.as_f64() == Some(*known))
            .map(|(_, learnt)| learnt),
        _ => None,
    };
    match learnt {
        Some(learnt) => Ok(Some(learnt).filter(|learnt| decides || !learnt)),
        None => Err(format!("has `{key}: {value}`; it must be 0 or false, or 1 or true")),
    }
}

/// The messages with their pictures, of which there must be as many as there are places for them.
fn with_pictures(read: Vec<Read>, pictures: Vec<Picture>) -> Result<Conversation, String> {
    let places: usize =
        read.iter().filter_map(|message| message.content.as_ref()).map(|(_, parts)| parts::places(parts)).sum();
    if places != pictures.len() {
        let counted = |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        return Err(format!(
            "has {} (`{}`, or parts of type image without a source), but the row has {}",
            counted(places, "place for a picture", "places for pictures"),
            parts::MARKER,
            counted(pictures.len(), "picture", "pictures"),
        ));
    }
    let mut of_row = pictures.into_iter();
    let mut conversation = Conversation::default();
    for Read { mut fields, content, learnt } in read {
        if let Some((place, parts)) = content {
            let content = parts::content(parts, &mut of_row, &mut conversation.pictures);
            fields.insert(place, ("content".to_owned(), content));
        }
        conversation.messages.push(Message::from_fields(fields));
        conversation.learnt.push(learnt);
    }
    Ok(conversation)
}

impl Conversation {
    /// Adds what `role` says, with pictures, which stand first in it unless markers say where.
    ///
    /// # Errors
    /// A sentence: there are other numbers of markers and pictures.
    pub fn say(&mut self, role: &str, text: &str, pictures: Vec<Picture>) -> Result<(), String> {
        let mut parts = if pictures.is_empty() { vec![Part::Text(text.to_owned())] } else { parts::by_markers(text) };
        let places = parts::places(&parts);
        if places == 0 {
            parts.splice(0..0, pictures.iter().map(|_| Part::Picture(None)));
        } else if places != pictures.len() {
            return Err(format!(
                "there are {places} `{}` in the text, but {} pictures; make them agree, or leave them all out of the text",
                parts::MARKER,
                pictures.len()
            ));
        }
        let content = parts::content(parts, &mut pictures.into_iter(), &mut self.pictures);
        self.messages.push(Message::from_fields([("role".to_owned(), role.into()), ("content".to_owned(), content)]));
        self.learnt.push(role == ASSISTANT);
        Ok(())
    }

    /// With the last of its learnt messages alone still learnt.
    pub(super) fn only_last(mut self) -> Self {
        if let Some(last) = self.learnt.iter().rposition(|learnt| *learnt) {
            self.learnt[..last].fill(false);
        }
        self
    }

    /// Takes its last message away, if that is the assistant's, and gives what it says.
    pub(crate) fn take_answer(&mut self) -> Option<String> {
        let answer = self.messages.pop_if(|last| last.role() == ASSISTANT)?;
        self.learnt.pop();
        Some(answer.content().to_owned())
    }

    /// Questions and their answers about pictures, which stand before the first question unless markers say where.
    ///
    /// # Errors
    /// A sentence: there are other numbers of markers and pictures.
    pub(super) fn of_turns<'a>(
        turns: impl IntoIterator<Item = (&'a str, &'a str)>,
        pictures: Vec<Picture>,
    ) -> Result<Self, String> {
        let with_markers =
            |text: &str| if pictures.is_empty() { vec![Part::Text(text.to_owned())] } else { parts::by_markers(text) };
        let said = turns.into_iter().flat_map(|(user, assistant)| [("user", user), (ASSISTANT, assistant)]);
        let mut read: Vec<Read> = said
            .map(|(role, text)| Read {
                fields: vec![("role".to_owned(), role.into())],
                content: Some((1, with_markers(text))),
                learnt: role == ASSISTANT,
            })
            .collect();
        let marked =
            read.iter().filter_map(|message| message.content.as_ref()).any(|(_, parts)| parts::places(parts) > 0);
        if let Some((_, parts)) = read.first_mut().and_then(|message| message.content.as_mut()).filter(|_| !marked) {
            parts.splice(0..0, pictures.iter().map(|_| Part::Picture(None)));
        }
        with_pictures(read, pictures)
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
