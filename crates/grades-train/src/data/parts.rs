//! Contents of messages in parts: text, and the places of pictures.

use serde_json::{Value, json};

use super::picture::Picture;

/// What marks the place of a picture in a text, in LLaVA, LLaMA-Factory and ms-swift alike.
pub const MARKER: &str = "<image>";

/// A part of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// A picture, or the place of the row's next one.
    Picture(Option<Picture>),
}

/// The parts of a text with markers. A line break between a marker and the text belongs to the marker, as in LLaVA.
pub(super) fn by_markers(text: &str) -> Vec<Part> {
    let pieces: Vec<&str> = text.split(MARKER).collect();
    let last = pieces.len() - 1;
    let mut parts = Vec::new();
    for (number, piece) in pieces.into_iter().enumerate() {
        if number > 0 {
            parts.push(Part::Picture(None));
        }
        let piece = if number > 0 { piece.strip_prefix('\n').unwrap_or(piece) } else { piece };
        // behind the text, the line break stands before the marker
        let ends = number + 1 == last && text.ends_with(MARKER);
        let piece = if ends { piece.strip_suffix('\n').unwrap_or(piece) } else { piece };
        parts.push(Part::Text(piece.to_owned()));
    }
    parts
}

/// The parts of a content that is written in parts; `picture` reads one that a part brings along.
///
/// # Errors
/// A sentence: a part is neither text nor a picture, or says of a picture what is not read.
pub(super) fn of_content(
    parts: &[Value],
    picture: &dyn Fn(&Value) -> Result<Picture, String>,
) -> Result<Vec<Part>, String> {
    let part = |part: &Value| {
        let kind = match part {
            Value::String(text) => return Ok(Part::Text(text.clone())),
            part => part["type"].as_str(),
        };
        match (kind, part["text"].as_str()) {
            (Some("text") | None, Some(text)) => Ok(Part::Text(text.to_owned())),
            (Some("image" | "image_url"), _) => Ok(Part::Picture(brought(part, picture)?)),
            (kind, _) => Err(format!(
                "has a part of type {}, but only text and pictures can be learnt; remove the row",
                kind.unwrap_or("unknown")
            )),
        }
    };
    parts.iter().map(part).collect()
}

/// Keys under which a part may bring its picture along.
const SOURCES: [&str; 6] = ["image", "image_url", "url", "path", "base64", "bytes"];

/// The picture of a part, if it brings one.
fn brought(part: &Value, picture: &dyn Fn(&Value) -> Result<Picture, String>) -> Result<Option<Picture>, String> {
    let Value::Object(fields) = part else { return Ok(None) };
    let set = |key: &str| fields.get(key).filter(|value| !value.is_null());
    let harmless = |key: &str| key == "type" || key == "text" || SOURCES.contains(&key);
    if let Some((key, _)) = fields.iter().find(|(key, value)| !harmless(key) && !value.is_null()) {
        return Err(format!("has a picture with `{key}`, which is not supported; remove it"));
    }
    let source = SOURCES.iter().find_map(|key| Some((*key, set(key)?)));
    source
        .map(|(key, value)| match key {
            // an object with bytes and a path may itself stand in the part
            "bytes" | "path" => picture(part),
            "base64" => picture(&json!({ "bytes": value })),
            _ => picture(value),
        })
        .transpose()
        .map_err(|problem| format!("cannot be read: {problem}"))
}

/// How many pictures must come from the row.
pub(super) fn places(parts: &[Part]) -> usize {
    parts.iter().filter(|part| matches!(part, Part::Picture(None))).count()
}

/// The content as a chat template reads it: a text if there is nothing else, and else parts, texts beside one another joined.
/// The pictures go to `pictures`, those of the row from `row`.
pub(super) fn content(parts: Vec<Part>, row: &mut impl Iterator<Item = Picture>, pictures: &mut Vec<Picture>) -> Value {
    let mut texts = String::new();
    let mut content: Vec<Value> = Vec::new();
    let end_text = |texts: &mut String, content: &mut Vec<Value>| {
        if !texts.is_empty() {
            content.push(json!({"type": "text", "text": std::mem::take(texts)}));
        }
    };
    let before = pictures.len();
    for part in parts {
        match part {
            Part::Text(text) => texts += &text,
            Part::Picture(picture) => {
                end_text(&mut texts, &mut content);
                content.push(json!({"type": "image"}));
                pictures.extend(picture.or_else(|| row.next()));
            }
        }
    }
    if pictures.len() == before {
        return Value::String(texts);
    }
    end_text(&mut texts, &mut content);
    Value::Array(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_beside_a_marker_is_the_markers() {
        let text = |text: &str| Part::Text(text.to_owned());
        let place = || Part::Picture(None);
        assert_eq!(by_markers("plain\n"), [text("plain\n")]);
        assert_eq!(by_markers("<image>\nwhat?"), [text(""), place(), text("what?")]);
        assert_eq!(by_markers("<image>what?"), [text(""), place(), text("what?")]);
        assert_eq!(by_markers("what?\n<image>"), [text("what?"), place(), text("")]);
        let two = [text("a\n"), place(), text(" b "), place(), text("\nc")];
        assert_eq!(by_markers("a\n<image>\n b <image>\n\nc"), two);
        assert_eq!(places(&two), 2);
    }
}
