//! One row of a data set: its columns, who has read them, and where it was.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use grades_models::fields::Taken;
use serde_json::{Map, Value};

use super::error::DataError;
use super::files;

/// Where a row was read, as the messages name it: `train.jsonl:12` or `train.json, row 12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) file: Arc<Path>,
    pub(super) at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Line(u64),
    Row(usize),
    /// No row, but all there is.
    Whole,
}

impl Place {
    /// What comes from no file, by the name that messages have for it.
    pub fn named(name: &str) -> Self {
        Self { file: Path::new(name).into(), at: At::Whole }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Line(line) => write!(f, "{}:{line}", self.file.display()),
            At::Row(row) => write!(f, "{}, row {row}", self.file.display()),
            At::Whole => write!(f, "{}", self.file.display()),
        }
    }
}

/// One row of a data set: its columns, and where it was read.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where the row was read.
    pub place: Place,
    columns: Columns,
    /// Bytes of pictures, which JSON has no form for: where they stand in a column, it has their number here.
    blobs: Vec<Arc<[u8]>>,
    taken: Taken,
    /// What is wrong with the row as a whole: no column of it can be read.
    broken: Option<String>,
}

/// The columns of a row by name. One whose value cannot be read has the reason in its place, which matters only to those who
/// ask for it.
pub(super) type Columns = Vec<(String, Result<Value, String>)>;

impl Record {
    pub(super) fn new(place: Place, columns: Columns) -> Self {
        Self { place, columns, blobs: Vec::new(), taken: Taken::default(), broken: None }
    }

    /// A row that cannot be read, and why; who asks for a column of it is told.
    pub(super) fn broken(place: Place, problem: String) -> Self {
        Self { broken: Some(problem), ..Self::new(place, Columns::new()) }
    }

    fn check(&self) -> Result<(), DataError> {
        self.broken.as_ref().map_or(Ok(()), |problem| Err(self.error(problem)))
    }

    /// With the bytes that its columns number.
    pub(super) fn with_blobs(self, blobs: Vec<Arc<[u8]>>) -> Self {
        Self { blobs, ..self }
    }

    /// The bytes of that number.
    pub(super) fn blob(&self, number: u64) -> Option<Arc<[u8]>> {
        self.blobs.get(usize::try_from(number).ok()?).cloned()
    }

    /// The same with one more column, in which nothing was asked for yet.
    pub(super) fn with_column(&self, name: &str, value: Value) -> Self {
        let mut columns = self.columns.clone();
        columns.retain(|(other, _)| other != name);
        columns.push((name.to_owned(), Ok(value)));
        Self {
            place: self.place.clone(),
            columns,
            blobs: self.blobs.clone(),
            taken: Taken::default(),
            broken: self.broken.clone(),
        }
    }

    /// Notes that what was asked for in another, of the same columns, was asked for.
    pub(super) fn take_as(&self, other: &Self) {
        let left: Vec<&str> = other.left().into_iter().map(|(name, _)| name).collect();
        self.columns
            .iter()
            .filter(|(name, _)| !left.contains(&name.as_str()))
            .for_each(|(name, _)| self.taken.note(name));
    }

    /// The columns with a value that nobody has asked for.
    pub(crate) fn left(&self) -> Vec<(&str, &Result<Value, String>)> {
        let set = self.columns.iter().filter(|(_, value)| !matches!(value, Ok(Value::Null)));
        let left = self.taken.left(set.map(|(name, _)| name.as_str()));
        left.into_iter().filter_map(|name| Some((name, self.find(name)?))).collect()
    }

    /// The text in `column`.
    ///
    /// # Errors
    /// The column is missing or holds no text.
    pub fn text(&self, column: &str) -> Result<&str, DataError> {
        let value = self.value(column)?;
        value.as_str().ok_or_else(|| self.wrong_type(column, value, "text"))
    }

    /// The text in `column`, or `None` where the column is missing or null.
    ///
    /// # Errors
    /// The column holds something else than text.
    pub fn optional_text(&self, column: &str) -> Result<Option<&str>, DataError> {
        match self.optional(column)? {
            None => Ok(None),
            Some(_) => self.text(column).map(Some),
        }
    }

    /// What is in `column`, or `None` where the column is missing or null.
    ///
    /// # Errors
    /// The value cannot be read.
    pub(crate) fn optional(&self, column: &str) -> Result<Option<&Value>, DataError> {
        self.check()?;
        self.taken.note(column);
        let value = self.find(column).map(|value| self.readable(column, value)).transpose()?;
        Ok(value.filter(|value| !value.is_null()))
    }

    /// The whole number in `column`, also where it is written as text: csv knows nothing else, and sets on the
    /// Hub differ in it.
    ///
    /// # Errors
    /// The column is missing or holds no whole number.
    pub fn integer(&self, column: &str) -> Result<i64, DataError> {
        let value = self.value(column)?;
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| self.wrong_type(column, value, "a whole number"))
    }

    /// The truth value in `column`, also where it is written as text.
    ///
    /// # Errors
    /// The column is missing or holds neither true nor false.
    pub fn boolean(&self, column: &str) -> Result<bool, DataError> {
        match self.value(column)? {
            Value::Bool(value) => Ok(*value),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            value => Err(self.wrong_type(column, value, "true or false")),
        }
    }

    /// The list of texts in `column`; `column` may name an entry of an object, as in `choices.text`.
    ///
    /// # Errors
    /// The column is missing or holds something else.
    pub fn texts(&self, column: &str) -> Result<Vec<&str>, DataError> {
        let value = self.value(column)?;
        value
            .as_array()
            .and_then(|items| items.iter().map(Value::as_str).collect())
            .ok_or_else(|| self.wrong_type(column, value, "a list of texts"))
    }

    /// The list of objects in `column`.
    ///
    /// # Errors
    /// The column is missing or holds something else.
    pub fn objects(&self, column: &str) -> Result<Vec<&Map<String, Value>>, DataError> {
        let value = self.value(column)?;
        value
            .as_array()
            .and_then(|items| items.iter().map(Value::as_object).collect())
            .ok_or_else(|| self.wrong_type(column, value, "a list of objects"))
    }

    /// Whether the row has `column`.
    pub fn has(&self, column: &str) -> bool {
        self.find(column).is_some()
    }

    /// An error about this row.
    pub fn error(&self, message: impl Into<String>) -> DataError {
        DataError::Row { place: self.place.to_string(), message: message.into() }
    }

    fn value(&self, column: &str) -> Result<&Value, DataError> {
        self.check()?;
        let (first, rest) = column.split_once('.').unwrap_or((column, ""));
        let (name, found) = match self.find(column) {
            Some(value) => (column, Some(value)),
            None if rest.is_empty() => (column, None),
            None => (first, self.find(first)),
        };
        self.taken.note(name);
        let found = found.map(|value| self.readable(name, value)).transpose()?;
        let found = if name == column { found } else { found.and_then(|value| value.get(rest)) };
        found.ok_or_else(|| DataError::MissingColumn {
            place: self.place.to_string(),
            column: column.to_owned(),
            found: files::list(self.columns.iter().map(|(name, _)| name)),
        })
    }

    fn find(&self, column: &str) -> Option<&Result<Value, String>> {
        self.columns.iter().find(|(name, _)| name == column).map(|(_, value)| value)
    }

    fn readable<'a>(&self, column: &str, value: &'a Result<Value, String>) -> Result<&'a Value, DataError> {
        value
            .as_ref()
            .map_err(|reason| self.error(format!("column `{column}` cannot be used ({reason}); correct the row")))
    }

    fn wrong_type(&self, column: &str, value: &Value, wanted: &str) -> DataError {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.error(format!("column `{column}` must hold {wanted}, but holds {found}"))
    }
}
