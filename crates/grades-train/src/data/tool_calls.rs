//! Arguments of tool calls, which some data hold as an object and some as its JSON, and some templates want as the one, some as the
//! other.

use std::borrow::Cow;

use grades_models::template::Message;
use serde_json::Value;

use super::conversation::Conversation;
use super::encode::Encode;

/// The conversation with the arguments of its calls in the form that the template writes as JSON. As they are, unless it refuses them,
/// writes a text as text in JSON (`"{\"city\": …}"`), or an object as Python prints it (`{'city': …}`), and does not so with the other form.
pub(super) fn as_read<'a>(conversation: &'a Conversation, encoder: &dyn Encode) -> Cow<'a, Conversation> {
    if arguments(conversation).next().is_none() || suits(conversation, encoder) {
        return Cow::Borrowed(conversation);
    }
    let mut other = conversation.clone();
    for message in &mut other.messages {
        let fields = message.fields().iter().map(|(key, value)| {
            let mut value = value.clone();
            if key == "tool_calls" {
                value.as_array_mut().into_iter().flatten().filter_map(arguments_of_mut).for_each(turn_over);
            }
            (key.clone(), value)
        });
        *message = Message::from_fields(fields.collect::<Vec<_>>());
    }
    if suits(&other, encoder) { Cow::Owned(other) } else { Cow::Borrowed(conversation) }
}

/// Whether the template writes all arguments as JSON.
fn suits(conversation: &Conversation, encoder: &dyn Encode) -> bool {
    let Ok(rendered) = encoder.render(&conversation.messages, &conversation.given, false) else { return false };
    arguments(conversation).all(|arguments| match arguments {
        Value::String(text) => !rendered.text.contains(&Value::String(text.clone()).to_string()),
        Value::Object(of) => of.keys().all(|key| {
            !rendered.text.contains(&format!("{{'{key}': ")) && !rendered.text.contains(&format!(", '{key}': "))
        }),
        _ => true,
    })
}

/// JSON as what it holds, and an object as its JSON.
fn turn_over(arguments: &mut Value) {
    *arguments = match arguments.take() {
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(object @ Value::Object(_)) => object,
            _ => Value::String(text),
        },
        Value::Object(object) => Value::String(python_json(&Value::Object(object))),
        other => other,
    };
}

/// JSON with the spaces that Python's `json.dumps` puts into it, as data and templates have it.
fn python_json(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(python_json).collect::<Vec<_>>().join(", ")),
        Value::Object(items) => {
            let item =
                |(key, value): (&String, &Value)| format!("{}: {}", Value::from(key.as_str()), python_json(value));
            format!("{{{}}}", items.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

fn arguments(conversation: &Conversation) -> impl Iterator<Item = &Value> {
    let calls = conversation.messages.iter().filter_map(|message| message.fields().get("tool_calls")?.as_array());
    calls.flatten().filter_map(|call| call.get("function").unwrap_or(call).get("arguments"))
}

fn arguments_of_mut(call: &mut Value) -> Option<&mut Value> {
    let of = if call.get("function").is_some() { call.get_mut("function")? } else { call };
    of.get_mut("arguments")
}
