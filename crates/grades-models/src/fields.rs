//! What is read says what it has taken, and the rest is told: keys of a JSON file, fields of a message, columns of a row.
//!
//! Nothing that may change a meaning is read over in silence. A reader of an object goes through [`read`], which refuses or
//! names at the end what the reader did not ask for; whatever else is read by name keeps a [`Taken`].

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The names that somebody has asked for.
#[derive(Debug, Default)]
pub struct Taken(Mutex<BTreeSet<String>>);

impl Taken {
    /// Notes that `name` was asked for.
    pub fn note(&self, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
    }

    /// Those of `names` that nobody has asked for.
    pub fn left<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.into_iter().filter(|name| !taken.contains(*name)).collect()
    }
}

impl Clone for Taken {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

/// What becomes of the keys that a reader does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// They are an error, unless their value is empty or false and so switches nothing on.
    Refuse,
    /// They are named in a warning. For files to which programs add keys of their own.
    Warn,
}

/// What the parts of a program that cannot fail otherwise say of a field.
impl From<FieldsError> for String {
    fn from(error: FieldsError) -> Self {
        error.to_string()
    }
}

/// Why an object cannot be read; each message is a sentence that names the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// It is none.
    #[error("it is no JSON object")]
    NoObject,
    /// A value is of the wrong type.
    #[error("`{key}: {value}` is not of the expected type")]
    WrongType {
        /// The key.
        key: String,
        /// What is there.
        value: String,
    },
    /// A value asks for something that does not exist here.
    #[error("`{key}: {value}` is not supported; only {plain} is")]
    Unsupported {
        /// The key.
        key: String,
        /// What is there.
        value: String,
        /// The values that are supported.
        plain: String,
    },
    /// A key is missing.
    #[error("`{0}` is missing")]
    Missing(String),
    /// Keys are not known.
    #[error("{0} not known, and may change the meaning; remove what changes nothing")]
    Unknown(String),
}

/// Reads the object `value` by `reader`, which asks for keys; what it leaves is refused, or named once in a warning that begins
/// with `what`.
///
/// # Errors
/// `value` is no object, the reader fails, or a key is left that is to be refused.
pub fn read<T, E: From<FieldsError>>(
    what: &str,
    value: &Value,
    rest: Rest,
    reader: impl FnOnce(&Fields<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let object = value.as_object().ok_or(FieldsError::NoObject)?;
    let fields = Fields { object, prefix: String::new(), taken: Taken::default() };
    let result = reader(&fields)?;
    match rest {
        Rest::Refuse => fields.refuse_left()?,
        Rest::Warn => match fields.left().as_slice() {
            [] => {}
            left => warn_once(format!("{what}: {} not known and not used", named(left))),
        },
    }
    Ok(result)
}

/// An object whose keys are asked for one by one. A value of `null` is as good as none.
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Before each key in messages.
    prefix: String,
    taken: Taken,
}

impl<'a> Fields<'a> {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.taken.note(key);
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// It is of another type.
    pub fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, FieldsError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = |_| FieldsError::WrongType { key: self.named(key), value: shown(value) };
        serde_json::from_value(value.clone()).map(Some).map_err(wrong)
    }

    /// Keys that change nothing of what is read here.
    pub fn harmless(&self, keys: &[&str]) {
        keys.iter().for_each(|key| self.taken.note(key));
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// It is missing, or of another type.
    pub fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T, FieldsError> {
        self.optional(key)?.ok_or_else(|| FieldsError::Missing(self.named(key)))
    }

    /// Whether `key` is true; left out, it is false.
    ///
    /// # Errors
    /// It is no truth value.
    pub fn flag(&self, key: &str) -> Result<bool, FieldsError> {
        Ok(self.optional(key)?.unwrap_or(false))
    }

    /// A key that would change the meaning, with the only values that are supported; it may be left out. Of a list each
    /// entry must be one of them.
    ///
    /// # Errors
    /// It has another value.
    pub fn only(&self, key: &str, plain: &[Value]) -> Result<(), FieldsError> {
        let supported = |value: &Value| plain.iter().any(|plain| same(plain, value));
        match self.get(key) {
            None => Ok(()),
            Some(Value::Array(items)) if items.iter().all(supported) => Ok(()),
            Some(value) if supported(value) => Ok(()),
            Some(value) => Err(FieldsError::Unsupported {
                key: self.named(key),
                value: shown(value),
                plain: plain.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "),
            }),
        }
    }

    /// Reads the object under `key`, which counts as empty where there is none, by `reader`; what that leaves is refused.
    ///
    /// # Errors
    /// It is no object, the reader fails, or a key is left.
    pub fn section<T, E: From<FieldsError>>(
        &self,
        key: &str,
        reader: impl FnOnce(&Fields<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let empty = Map::new();
        let object = match self.get(key) {
            None => &empty,
            Some(Value::Object(object)) => object,
            Some(value) => {
                return Err(FieldsError::WrongType { key: self.named(key), value: shown(value) }.into());
            }
        };
        let inner = Fields { object, prefix: format!("{}.", self.named(key)), taken: Taken::default() };
        let result = reader(&inner)?;
        inner.refuse_left()?;
        Ok(result)
    }

    /// The keys that nobody has asked for and that have a value.
    pub fn left(&self) -> Vec<String> {
        let set = self.object.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str());
        self.taken.left(set).into_iter().map(|key| self.named(key)).collect()
    }

    /// Refuses the keys that are left and switch something on.
    fn refuse_left(&self) -> Result<(), FieldsError> {
        let switched = self.object.iter().filter(|(_, value)| !is_empty(value)).map(|(key, _)| key.as_str());
        match self.taken.left(switched).as_slice() {
            [] => Ok(()),
            left => Err(FieldsError::Unknown(named(&left.iter().map(|key| self.named(key)).collect::<Vec<_>>()))),
        }
    }

    fn named(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// Whether a value says nothing: it is null, false, or has nothing in it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::Number(_) => false,
    }
}

/// Whether two values are one; 1 is 1.0.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| Some(number) == other.as_f64())
}

/// A value for a message: long ones are cut.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Names as the subject of a sentence, with its verb: "`a` is", "`a` and `b` are".
pub fn named<T: AsRef<str>>(names: &[T]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match quoted.as_slice() {
        [one] => format!("{one} is"),
        [before @ .., last] => format!("{} and {last} are", before.join(", ")),
        [] => "nothing is".to_owned(),
    }
}

/// Logs a warning, each sentence once in a process: what holds for a row often holds for all.
pub fn warn_once(sentence: String) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(sentence.clone()) {
        log::warn!("{sentence}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_all(value: Value) -> Result<(Option<f64>, Option<u8>), FieldsError> {
        read("a.json", &value, Rest::Refuse, |fields| {
            fields.harmless(&["comment"]);
            fields.only("mode", &[json!(false), json!("plain")])?;
            let inner = fields.section("inner", |inner| inner.optional("depth"))?;
            Ok((fields.optional("rate")?, inner))
        })
    }

    #[test]
    fn what_nobody_takes_is_named() {
        assert_eq!(read_all(json!({})), Ok((None, None)));
        let whole = json!({ "rate": 0.5, "mode": "plain", "inner": { "depth": 3 }, "comment": [1] });
        assert_eq!(read_all(whole), Ok((Some(0.5), Some(3))));
        let empty =
            json!({ "later": null, "use_it": false, "list": [], "map": {}, "text": "", "mode": ["plain", false] });
        assert_eq!(read_all(empty), Ok((None, None)));
        for (value, parts) in [
            (json!({ "rats": 1 }), vec!["`rats` is"]),
            (json!({ "b": 1, "a": 2, "c": 3 }), vec!["`b`, `a` and `c` are"]),
            (json!({ "inner": { "width": 3 } }), vec!["`inner.width` is"]),
            (json!({ "inner": 3 }), vec!["`inner: 3`", "type"]),
            (json!({ "rate": "fast" }), vec!["`rate: \"fast\"`", "type"]),
            (json!({ "mode": true }), vec!["`mode: true`", "only false or \"plain\""]),
            (json!({ "mode": ["plain", 1] }), vec!["`mode: [\"plain\",1]`", "only"]),
            (json!({ "number": 0 }), vec!["`number` is"]),
            (json!([1]), vec!["no JSON object"]),
        ] {
            let error = read_all(value).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn a_warning_is_no_error() {
        let value = json!({ "own": 1 });
        assert_eq!(read("a.json", &value, Rest::Warn, |_| Ok::<_, FieldsError>(1)), Ok(1));
    }
}
