//! Rows as JSON in the dialect that Python writes, where a value that cannot be read concerns its own column alone.
//!
//! Python writes and reads `NaN`, `Infinity` and halves of surrogate pairs, which JSON does not know. What nobody uses may
//! hold them, and numbers of any size and lists of any depth.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::record::Columns;

/// What a file of JSON holds.
pub(super) enum Objects {
    /// A list, or an object with a list `data`; none stands for what is no object.
    Rows(Vec<Option<Columns>>),
    /// Another object.
    NoData,
    /// Something else.
    Other,
}

/// The columns of one object.
///
/// # Errors
/// The text is no JSON object.
pub(super) fn object(text: &str) -> Result<Columns, serde_json::Error> {
    lenient(text, |text| Ok(serde_json::from_str::<Row<'_>>(text)?.columns()))
}

/// The objects of a file.
///
/// # Errors
/// The text is not JSON.
pub(super) fn objects(text: &str) -> Result<Objects, serde_json::Error> {
    lenient(text, |text| match text.trim_start().chars().next() {
        Some('[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            let row = |item: &RawValue| match item.get().starts_with('{') {
                true => object(item.get()).map(Some),
                false => Ok(None),
            };
            Ok(Objects::Rows(items.into_iter().map(row).collect::<Result<_, _>>()?))
        }
        Some('{') => {
            let Row(members) = serde_json::from_str(text)?;
            match members.into_iter().find(|(name, value)| name == "data" && value.get().starts_with('[')) {
                Some((_, list)) => objects(list.get()),
                None => Ok(Objects::NoData),
            }
        }
        _ => serde_json::from_str::<&RawValue>(text).map(|_| Objects::Other),
    })
}

/// Reads a text, and if it is no JSON once more as Python writes it.
fn lenient<T>(text: &str, read: impl Fn(&str) -> Result<T, serde_json::Error>) -> Result<T, serde_json::Error> {
    read(text).or_else(|error| match of_python(text) {
        Some(text) => read(&text),
        None => Err(error),
    })
}

/// Members of an object that are few.
const FEW: usize = 64;

/// The members of an object as they are written. Of a name that occurs twice the last counts, as in Python.
struct Row<'a>(Vec<(String, &'a RawValue)>);

impl Row<'_> {
    fn columns(self) -> Columns {
        let value = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).map_err(|error| reason(&error));
        self.0.into_iter().map(|(name, raw)| (name, value(raw))).collect()
    }
}

impl<'de> Deserialize<'de> for Row<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Row<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                let mut places = HashMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    let place = match members.len() {
                        // Of a few it takes less time to look at each.
                        ..FEW => members.iter().position(|(known, _)| *known == name),
                        _ => places.get(&name).copied(),
                    };
                    if let Some(place) = place {
                        members[place].1 = value;
                        continue;
                    }
                    members.push((name, value));
                    let from = if members.len() == FEW { 0 } else { members.len() - 1 };
                    if members.len() >= FEW {
                        places.extend((from..members.len()).map(|place| (members[place].0.clone(), place)));
                    }
                }
                Ok(Row(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Why a value cannot be read, without the place, which counts from the value's own begin.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]).to_owned()
}

/// JSON in which each bare `NaN`, `Infinity` and `-Infinity` is a number that is out of range, so that it is refused where it
/// is used; none if there is no such word.
fn of_python(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let (mut quoted, mut found) = (false, false);
    // By bytes, four times as fast as by characters, for long lines.
    let ends =
        |quoted: bool, byte: u8| if quoted { matches!(byte, b'"' | b'\\') } else { matches!(byte, b'"' | b'N' | b'I') };
    while let Some(at) = rest.bytes().position(|byte| ends(quoted, byte)) {
        let (before, here) = rest.split_at(at);
        out += before;
        let word = ["NaN", "Infinity"].into_iter().find(|word| !quoted && here.starts_with(*word));
        let length = match (word, here.as_bytes()[0]) {
            (Some(word), _) => {
                found = true;
                out += "9e999";
                rest = &here[word.len()..];
                continue;
            }
            // An escape, of which the next character is a part.
            (None, b'\\') => 1 + here[1..].chars().next().map_or(0, char::len_utf8),
            (None, b'"') => {
                quoted = !quoted;
                1
            }
            _ => 1,
        };
        out += &here[..length];
        rest = &here[length..];
    }
    found.then(|| out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Vec<(String, Result<String, String>)> {
        object(text).unwrap().into_iter().map(|(name, value)| (name, value.map(|value| value.to_string()))).collect()
    }

    #[test]
    fn an_unreadable_value_concerns_its_column() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (odd, reason) in [
            ("NaN", "out of range"),
            ("[1, -Infinity]", "out of range"),
            ("{\"a\": Infinity}", "out of range"),
            ("1e400", "out of range"),
            (r#""\ud83d broken""#, "hex escape"),
            (&deep, "recursion limit"),
        ] {
            let found = columns(&format!(r#"{{"a": "NaN \" Infinity", "odd": {odd}, "b": [null, 1.5]}}"#));
            assert_eq!(found[0], ("a".to_owned(), Ok(r#""NaN \" Infinity""#.to_owned())), "{odd}");
            assert!(found[1].1.as_ref().unwrap_err().contains(reason), "{odd}: {:?}", found[1]);
            assert_eq!(found[2].1.as_deref(), Ok("[null,1.5]"));
        }
        assert_eq!(
            columns(r#"{"a": 1, "b": 2, "a": 3}"#),
            [("a", "3"), ("b", "2")].map(|(k, v)| (k.to_owned(), Ok(v.to_owned())))
        );
    }

    /// Looking at each member for each would take minutes.
    #[test]
    fn a_row_may_have_very_many_columns() {
        let member = |at: usize| format!("\"{}\": {at}", at % 300_000);
        let text = (0..300_100).map(member).collect::<Vec<_>>().join(",");
        let found = columns(&format!("{{{text}}}"));
        assert_eq!(found.len(), 300_000);
        for (place, value) in [(0, 300_000), (63, 300_063), (99, 300_099), (100, 100), (299_999, 299_999)] {
            assert_eq!(found[place], (place.to_string(), Ok(value.to_string())));
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "{\"a\": NaNa}",
            "{\"a\": N}",
            "{\"a\": Inf}",
            "{\"a\": \"NaN}",
            "{NaN: 1}",
            "[1]",
            "NaN",
            "{\"a\": 1} 2",
            "\"\\",
            "",
        ] {
            assert!(object(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_objects() {
        let rows = |text: &str| match objects(text).unwrap() {
            Objects::Rows(rows) => rows,
            _ => panic!("{text}"),
        };
        assert_eq!(rows(r#"[{"a": 1}, {"a": NaN}]"#)[0], Some(vec![("a".to_owned(), Ok(1.into()))]));
        assert_eq!(rows(r#" [{"a": 1}, 2]"#)[1], None);
        assert_eq!(rows(r#"{"other": NaN, "data": [{"a": 1}]}"#).len(), 1);
        assert!(matches!(objects("{}"), Ok(Objects::NoData)) && matches!(objects("3"), Ok(Objects::Other)));
        assert!(objects("[{\"a\": }]").is_err() && objects("{\"a\": 1}\n{\"a\": 2}").is_err());
    }
}
