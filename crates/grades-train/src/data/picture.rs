//! Pictures of samples, still compressed, and where they are found.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::record::Record;

/// A picture of a sample as it was stored. It is decoded where a batch is made, and what comes of that is not kept.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Picture {
    /// The bytes of its file.
    Bytes(Arc<[u8]>),
    /// Its file.
    File(Arc<Path>),
}

impl Picture {
    /// The bytes of its file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bytes(&self) -> io::Result<Arc<[u8]>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(file) => Ok(fs::read(file)?.into()),
        }
    }
}

impl Picture {
    /// Where it is in memory, or its path: of two that are the same picture it may be another.
    pub(crate) fn address(&self) -> (usize, usize) {
        let bytes = match self {
            Self::Bytes(bytes) => bytes.as_ptr_range(),
            Self::File(file) => file.as_os_str().as_encoded_bytes().as_ptr_range(),
        };
        (bytes.start.addr(), bytes.end.addr())
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(file) => write!(f, "File({})", file.display()),
        }
    }
}

impl fmt::Display for Picture {
    /// As messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "a picture of {} bytes", bytes.len()),
            Self::File(file) => write!(f, "{}", file.display()),
        }
    }
}

/// Where pictures of rows are.
#[derive(Clone, Debug, Default)]
pub struct PictureColumns {
    /// The column that has them; without one, `images` or `image`.
    pub column: Option<String>,
    /// The folder of those that are given by path; without one, that of the data file.
    pub folder: Option<PathBuf>,
}

const COLUMNS: [&str; 2] = ["images", "image"];

impl PictureColumns {
    /// The pictures of a row: those of a list, or one. `None` where it has no column for them.
    ///
    /// # Errors
    /// A sentence: a picture cannot be found, or is given in a way that is not known.
    pub(crate) fn of(&self, record: &Record) -> Result<Option<Vec<Picture>>, String> {
        let columns = match &self.column {
            Some(column) => vec![column.as_str()],
            None => COLUMNS.to_vec(),
        };
        let mut found: Option<(&str, Vec<Picture>)> = None;
        for column in columns {
            let Some(value) = record.optional(column).map_err(|error| error.to_string())? else { continue };
            let pictures = match value {
                Value::String(text) if text.trim().is_empty() => Vec::new(),
                Value::Array(all) => all.iter().map(|one| self.picture(one, record)).collect::<Result<Vec<_>, _>>()?,
                one => vec![self.picture(one, record)?],
            };
            match &found {
                Some((other, before)) if !before.is_empty() && !pictures.is_empty() => {
                    return Err(format!(
                        "both `{other}` and `{column}` have pictures; remove one, or set field_images"
                    ));
                }
                Some((_, before)) if !before.is_empty() => {}
                _ => found = Some((column, pictures)),
            }
        }
        Ok(found.map(|(_, pictures)| pictures))
    }

    /// One picture: a path, a data: URL, `{bytes, path}` as `datasets` has it, or `{url}`.
    ///
    /// # Errors
    /// As of [`of`](Self::of).
    pub(super) fn picture(&self, value: &Value, record: &Record) -> Result<Picture, String> {
        match value {
            Value::String(text) => self.by_text(text, record),
            Value::Object(fields) => self.by_fields(fields, record),
            _ => Err(format!(
                "a picture is given as {value}; it must be a path, a data: URL, or an object with bytes or a path"
            )),
        }
    }

    fn by_fields(&self, fields: &Map<String, Value>, record: &Record) -> Result<Picture, String> {
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        match (fields.get("bytes"), text("path").or(text("url"))) {
            (Some(Value::Number(number)), _) => {
                let blob = number.as_u64().and_then(|number| record.blob(number));
                blob.map(Picture::Bytes)
                    .ok_or_else(|| "a picture's bytes are a number; write them as base64".to_owned())
            }
            (Some(Value::String(encoded)), _) => decoded(encoded),
            (_, Some(text)) => self.by_text(text, record),
            _ => Err("a picture has neither bytes nor a path".to_owned()),
        }
    }

    fn by_text(&self, text: &str, record: &Record) -> Result<Picture, String> {
        if let Some(url) = text.strip_prefix("data:") {
            return match url.split_once(";base64,") {
                Some((_, encoded)) => decoded(encoded),
                None => Err("a picture is a data: URL without base64; encode it so".to_owned()),
            };
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.contains("://") {
            return Err(format!(
                "the picture {path} would have to be fetched, which is not done; save it, and give its path"
            ));
        }
        self.file(Path::new(path), record).map(Picture::File)
    }

    /// The file of a path, which must lie within the folder, also after links.
    fn file(&self, path: &Path, record: &Record) -> Result<Arc<Path>, String> {
        let beside = || record.place.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = self.folder.as_deref().or_else(beside).unwrap_or(Path::new("."));
        let absent = |_| {
            format!(
                "the picture {} is not in the folder {}; correct the row, or set image_folder to the folder of the pictures",
                path.display(),
                folder.display()
            )
        };
        let root = folder.canonicalize().map_err(absent)?;
        let file = root.join(path).canonicalize().map_err(absent)?;
        if !file.starts_with(&root) {
            return Err(format!(
                "the picture {} lies outside of the folder {}; set image_folder to a folder that has it",
                path.display(),
                folder.display()
            ));
        }
        if !file.is_file() {
            return Err(format!("the picture {} is no file; correct the row", file.display()));
        }
        Ok(file.into())
    }
}

fn decoded(encoded: &str) -> Result<Picture, String> {
    match STANDARD.decode(encoded.trim()) {
        Ok(bytes) => Ok(Picture::Bytes(bytes.into())),
        Err(error) => Err(format!("a picture is not valid base64 ({error})")),
    }
}

#[cfg(test)]
#[path = "picture_tests.rs"]
mod tests;
