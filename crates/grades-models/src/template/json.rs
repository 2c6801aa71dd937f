//! `tojson`, as transformers has it.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python;

/// Blanks by which `tojson` indents a level; templates use four.
const WIDEST: usize = 64;

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it; minijinja's own filter escapes HTML.
pub(super) fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    if indent.is_some_and(|indent| indent > WIDEST) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson indents by {WIDEST} at most")));
    }
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let [between, behind_key] = match separators.as_deref() {
        None if indent.is_some() => [",", ": "],
        None => [", ", ": "],
        Some([between, behind_key]) => [between.as_str(), behind_key.as_str()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
    };
    let mut json = Json { out: String::new(), indent, sort_keys, ascii, between, behind_key };
    json.write(value, 0)?;
    Ok(Value::from_safe_string(json.out))
}

struct Json<'a> {
    out: String,
    indent: Option<usize>,
    sort_keys: bool,
    /// Whether all else than ASCII is escaped.
    ascii: bool,
    /// What stands between two items.
    between: &'a str,
    /// What stands behind a key.
    behind_key: &'a str,
}

impl Json<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out += "null",
            ValueKind::Bool => self.out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number => self.out += &python::number(value),
            ValueKind::String => self.text(value),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', &items, depth, Self::write)?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort_by_key(ToString::to_string);
                }
                self.container('{', '}', &keys, depth, |json, key, depth| {
                    json.text(key);
                    json.out += json.behind_key;
                    json.write(&value.get_item(key)?, depth)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("a value of kind {kind} has no JSON form"),
                ));
            }
        }
        Ok(())
    }

    fn text(&mut self, value: &Value) {
        let text = serde_json::Value::String(value.to_string()).to_string();
        for c in text.chars() {
            match c {
                c if c.is_ascii() || !self.ascii => self.out.push(c),
                c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| self.out += &format!("\\u{unit:04x}")),
            }
        }
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            match (i, self.indent) {
                (0, None) => {}
                (0, Some(_)) => self.line(depth + 1),
                (_, None) => self.out += self.between,
                (_, Some(_)) => {
                    self.out += self.between;
                    self.line(depth + 1);
                }
            }
            write(self, item, depth + 1)?;
        }
        if self.indent.is_some() && !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', depth * self.indent.unwrap_or(0)));
    }
}
