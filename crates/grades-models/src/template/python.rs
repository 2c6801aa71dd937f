//! What Python prints and knows and minijinja does not: how values are written out, and methods of texts.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Containers in containers that are written out.
const DEEPEST: usize = 64;

/// A value as `str` writes it, where minijinja would write something else.
pub(super) fn spelling(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::String | ValueKind::Undefined => None,
        _ => {
            let mut out = String::new();
            repr(value, &mut out, 0)?;
            Some(out)
        }
    }
}

/// A value as `repr` writes it; `None` for what only minijinja has.
fn repr(value: &Value, out: &mut String, depth: usize) -> Option<()> {
    if depth > DEEPEST {
        return None;
    }
    let list = |out: &mut String, items: &mut dyn Iterator<Item = (Option<Value>, Value)>| {
        for (place, (key, item)) in items.enumerate() {
            if place > 0 {
                *out += ", ";
            }
            if let Some(key) = key {
                repr(&key, out, depth + 1)?;
                *out += ": ";
            }
            repr(&item, out, depth + 1)?;
        }
        Some(())
    };
    match value.kind() {
        ValueKind::None => *out += "None",
        ValueKind::Bool => *out += if value.is_true() { "True" } else { "False" },
        ValueKind::Number => *out += &number(value),
        ValueKind::String => quoted(value.as_str()?, out),
        ValueKind::Seq => {
            out.push('[');
            list(out, &mut value.try_iter().ok()?.map(|item| (None, item)))?;
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            let items = value.try_iter().ok()?.filter_map(|key| Some((Some(key.clone()), value.get_item(&key).ok()?)));
            list(out, &mut { items })?;
            out.push('}');
        }
        _ => return None,
    }
    Some(())
}

/// A text as `repr` writes it.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => *out += "\\n",
            '\r' => *out += "\\r",
            '\t' => *out += "\\t",
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            c if c.is_control() => *out += &format!("\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// A number as Python writes it: of floats the shortest digits that give it back, with an exponent below 1e-4 and from 1e16.
pub(super) fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    let exponential = format!("{number:e}");
    match exponential.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        Some(_) if number.fract() == 0.0 => format!("{number:.1}"),
        Some(_) => number.to_string(),
        None if number.is_nan() => "nan".to_owned(),
        None => if number > 0.0 { "inf" } else { "-inf" }.to_owned(),
    }
}

/// Whether Jinja2 takes a value for a sequence: all that has a length and items, also texts, mappings, and what is undefined.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
}

/// Whether Jinja2 takes a value for something to go through, which `none` is not.
pub(super) fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// A method that minijinja does not know.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name) {
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        (Some(text), "partition" | "rpartition") => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let first = name == "partition";
            let found = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
            Ok(match found {
                Some((before, behind)) => [before, separator, behind].into_iter().collect(),
                None if first => [text, "", ""].into_iter().collect(),
                None => ["", "", text].into_iter().collect(),
            })
        }
        (Some(text), "rsplit") => rsplit(text, args),
        (Some(text), "title") => {
            let () = from_args(args)?;
            Ok(title(text).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// A text with the first of each run of letters in capitals and the others small.
fn title(text: &str) -> String {
    let mut within = false;
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if within {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        within = c.is_lowercase() || c.is_uppercase();
        out
    })
}

/// The parts of a text, split at most so many times, from its end.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.rsplitn(most, separator).collect(),
        None => {
            let (mut parts, mut rest) = (Vec::new(), text.trim_end());
            while parts.len() + 1 < most
                && let Some((before, behind)) = rest.rsplit_once(char::is_whitespace)
            {
                parts.push(behind);
                rest = before.trim_end();
            }
            parts.extend(Some(rest.trim_end()).filter(|rest| !rest.trim().is_empty()));
            parts
        }
    };
    parts.reverse();
    Ok(parts.into_iter().collect())
}
