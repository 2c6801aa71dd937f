//! What a template gets to see of a conversation, and what of it the template looks at.

use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::fields::Taken;

/// One turn of a conversation: `role`, `content`, and whatever else the template may know, such as `tool_calls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, serde_json::Value>);

impl Message {
    /// A turn of `role` saying `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self::from_fields([("role".to_owned(), role.into().into()), ("content".to_owned(), content.into().into())])
    }

    /// A turn with these fields.
    pub fn from_fields(fields: impl IntoIterator<Item = (String, serde_json::Value)>) -> Self {
        Self(fields.into_iter().collect())
    }

    /// Who speaks: `system`, `user`, `assistant`, or whatever else the template knows.
    pub fn role(&self) -> &str {
        self.text("role")
    }

    /// What is said.
    pub fn content(&self) -> &str {
        self.text("content")
    }

    /// All that the template may read.
    pub fn fields(&self) -> &Map<String, serde_json::Value> {
        &self.0
    }

    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(serde_json::Value::as_str).unwrap_or_default()
    }
}

/// What a conversation gives a template beside its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// The tools that the assistant may call.
    pub tools: Option<serde_json::Value>,
    /// Variables of the template, such as `enable_thinking`.
    pub variables: Map<String, serde_json::Value>,
}

/// A mapping for a template, which notes what of it was looked at.
#[derive(Debug)]
pub(super) struct Noted {
    fields: Vec<(String, Value)>,
    pub(super) taken: Taken,
}

/// Names of what the assistant thinks, the one that counts first. A template may read any of them.
pub(super) const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Noted {
    /// A message as transformers shows it: without what is null, and its thoughts under the names `thinking` and `reasoning_content`,
    /// whichever they have. (The order is that of its dictionary.)
    pub(super) fn new(fields: &Map<String, serde_json::Value>) -> Self {
        let set = |key: &&str| fields.get(*key).filter(|value| !value.is_null());
        let thoughts = THOUGHTS.iter().find_map(set);
        let mut shown: Vec<(&str, &serde_json::Value)> = Vec::with_capacity(fields.len() + 2);
        shown.extend(set(&THOUGHTS[1]).or(thoughts).map(|thoughts| (THOUGHTS[1], thoughts)));
        let others = fields.iter().filter(|(key, value)| *key != THOUGHTS[1] && !value.is_null());
        shown.extend(others.map(|(key, value)| (key.as_str(), value)));
        shown.extend(thoughts.filter(|_| set(&THOUGHTS[0]).is_none()).map(|thoughts| (THOUGHTS[0], thoughts)));
        shown.into_iter().map(|(key, value)| (key.to_owned(), from_json(value))).collect::<Vec<_>>().into()
    }
}

impl From<Vec<(String, Value)>> for Noted {
    fn from(fields: Vec<(String, Value)>) -> Self {
        Self { fields, taken: Taken::default() }
    }
}

impl Object for Noted {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.taken.note(key);
        // The last of a name counts: what a conversation gives comes after what every one has.
        self.fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.fields.iter().for_each(|(name, _)| self.taken.note(name));
        Enumerator::Values(self.fields.iter().map(|(name, _)| name.as_str().into()).collect())
    }

    // The default asks for the names, which would count as read.
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.fields.len())
    }
}

/// A JSON value as the template sees it.
pub(super) fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => ().into(),
        serde_json::Value::Bool(value) => (*value).into(),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => whole.into(),
            (_, Some(whole)) => whole.into(),
            _ => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}
