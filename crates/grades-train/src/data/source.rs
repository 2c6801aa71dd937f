//! Rows of data sets: of files (jsonl, json, csv, parquet, tar), of folders with files for each split, and of sets of the
//! Hugging Face Hub; and slices of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::error::DataError;
use super::record::{At, Place, Record};
use super::{files, json, parquet, webdataset};
use crate::hub::{Hub, is_id};

/// Where a data set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// A file, a folder, or if there is neither, a set of the Hugging Face Hub (`owner/name`).
    pub path: &'a str,
    /// The configuration, of sets that have several.
    pub name: Option<&'a str>,
    /// A branch, tag or commit of a set of the Hub.
    pub revision: Option<&'a str>,
}

impl Source<'_> {
    /// Reads the rows that `split` selects, as [`read`] does, from disk or from `hub`.
    ///
    /// # Errors
    /// As of [`read`]; the set is not on the Hub, or cannot be fetched.
    pub fn read(&self, split: Option<&str>, hub: &Hub) -> Result<Vec<Record>, DataError> {
        let Self { path, name, revision } = *self;
        let set = Path::new(path);
        if set.exists() || !is_id(path) {
            return match revision {
                Some(_) if set.exists() => Err(DataError::Format(format!(
                    "revision of data set {path} is not used, as it is a local file or folder; remove it"
                ))),
                _ => select(set, split, |split| local(set, name, split)),
            };
        }
        let snapshot = hub.data_set(path, revision)?;
        select(set, split, |split| {
            let files = files::of_split(set, snapshot.files(), name, split)?;
            files.into_iter().map(|file| Ok(snapshot.fetch(file)?)).collect()
        })
    }
}

impl Source<'_> {
    /// The first `limit` rows of a split. Of its files only as many are fetched and read as have them.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn first(&self, split: &str, limit: Option<usize>, hub: &Hub) -> Result<Vec<Record>, DataError> {
        let Self { path, name, revision } = *self;
        let set = Path::new(path);
        let Some(limit) = limit.filter(|_| !set.exists() && is_id(path) && split.chars().all(char::is_alphanumeric))
        else {
            let mut rows = self.read(Some(split), hub)?;
            rows.truncate(limit.unwrap_or(usize::MAX));
            return Ok(rows);
        };
        let snapshot = hub.data_set(path, revision)?;
        let mut rows = Vec::new();
        for file in files::of_split(set, snapshot.files(), name, split)? {
            rows.extend(read_file(&snapshot.fetch(file)?)?);
            if rows.len() >= limit {
                break;
            }
        }
        rows.truncate(limit);
        Ok(rows)
    }
}

/// Reads a file, or the files of a folder that `split` names, and returns the rows that `split` selects.
///
/// `split` follows Hugging Face datasets: `train`, `train[:1000]`, `train[10%:20%]`, `train[-100:]`, and unions
/// `train[:10]+train[-10:]`. For a single file only the slice counts. Without `split` it is `train`.
///
/// # Errors
/// The path is not there or is not readable, a line is not a JSON object, the split is misspelt or selects nothing.
pub fn read(path: &Path, split: Option<&str>) -> Result<Vec<Record>, DataError> {
    select(path, split, |split| local(path, None, split))
}

/// The rows that `split` selects, where `find` gives the files of a split's name.
fn select(
    set: &Path,
    split: Option<&str>,
    mut find: impl FnMut(&str) -> Result<Vec<PathBuf>, DataError>,
) -> Result<Vec<Record>, DataError> {
    let mut rows = Vec::new();
    let mut opened: Option<(Vec<PathBuf>, Vec<Record>)> = None;
    for selection in &parse_split(split.unwrap_or("train"))? {
        let files = find(&selection.name)?;
        if opened.as_ref().is_none_or(|(names, _)| *names != files) {
            let parts: Vec<Vec<Record>> = files.iter().map(|file| read_file(file)).collect::<Result<_, _>>()?;
            opened = Some((files, parts.into_iter().flatten().collect()));
        }
        let Some((files, all)) = &opened else { continue };
        let (start, end) = selection.bounds(all.len());
        if start >= end {
            return Err(DataError::EmptySplit {
                path: if let [file] = files.as_slice() { file.clone() } else { set.to_owned() },
                split: split.unwrap_or("train").to_owned(),
                rows: all.len(),
            });
        }
        rows.extend_from_slice(&all[start..end]);
    }
    Ok(rows)
}

/// The files of `split` in a local file or folder.
fn local(path: &Path, name: Option<&str>, split: &str) -> Result<Vec<PathBuf>, DataError> {
    if path.is_file() {
        return match name {
            Some(name) => Err(DataError::Format(format!(
                "name {name} of data set {} is not used, as it is a file; remove it",
                path.display()
            ))),
            None => Ok(vec![path.to_owned()]),
        };
    }
    if !path.is_dir() {
        return Err(DataError::NotFound { path: path.to_owned() });
    }
    let all = files::walk(path)?;
    Ok(files::of_split(path, &all, name, split)?.into_iter().map(|file| path.join(file)).collect())
}

fn read_file(path: &Path) -> Result<Vec<Record>, DataError> {
    let extension = files::extension(path);
    if !files::EXTENSIONS.contains(&extension.as_str()) {
        return Err(DataError::Unsupported { path: path.to_owned() });
    }
    let file: Arc<Path> = Arc::from(path);
    let rows = match extension.as_str() {
        "parquet" => {
            let place = |row| Place { file: file.clone(), at: At::Row(row) };
            let rows = (1..).zip(parquet::rows(path)?);
            rows.map(|(row, read)| Record::new(place(row), read.columns).with_blobs(read.blobs)).collect()
        }
        "tar" => {
            let rows = (1..).zip(webdataset::rows(path)?);
            let place = |row| Place { file: file.clone(), at: At::Row(row) };
            rows.map(|(row, read)| Record::new(place(row), read.columns).with_blobs(read.blobs)).collect()
        }
        "jsonl" => json_lines(&file, &read_text(path)?)?,
        "json" => json_array(&file, &read_text(path)?)?,
        _ => csv_rows(&file, &read_text(path)?)?,
    };
    if rows.is_empty() {
        return Err(DataError::NoRows { path: path.to_owned() });
    }
    Ok(rows)
}

fn read_text(path: &Path) -> Result<String, DataError> {
    let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        DataError::Row {
            place: format!("{}:{line}", path.display()),
            message: "the text is not UTF-8; convert the file".to_owned(),
        }
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn json_lines(file: &Arc<Path>, text: &str) -> Result<Vec<Record>, DataError> {
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let place = Place { file: file.clone(), at: At::Line(line) };
        let columns = json::object(text).map_err(|error| DataError::Row {
            place: place.to_string(),
            message: format!("the line is not one JSON object ({})", without_position(&error)),
        })?;
        rows.push(Record::new(place, columns));
    }
    Ok(rows)
}

/// serde_json counts lines within the text it got; the place already names the line of the file.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => format!("{}, column {}", &message[..end], error.column()),
        None => message,
    }
}

fn json_array(file: &Arc<Path>, text: &str) -> Result<Vec<Record>, DataError> {
    let invalid = |message: String| DataError::Invalid { path: file.to_path_buf(), message };
    let read = json::objects(text)
        .map_err(|error| invalid(format!("is not JSON ({error}); if it has one object a line, name it .jsonl")))?;
    let items = match read {
        json::Objects::Rows(rows) => rows,
        json::Objects::NoData => {
            return Err(invalid("holds an object without a list `data`; put the rows into a list".to_owned()));
        }
        json::Objects::Other => return Err(invalid("must hold a list of objects".to_owned())),
    };
    (1..)
        .zip(items)
        .map(|(row, item)| {
            let place = Place { file: file.clone(), at: At::Row(row) };
            match item {
                Some(columns) => Ok(Record::new(place, columns)),
                None => {
                    Err(DataError::Row { place: place.to_string(), message: "the row is not an object".to_owned() })
                }
            }
        })
        .collect()
}

fn csv_rows(file: &Arc<Path>, text: &str) -> Result<Vec<Record>, DataError> {
    let invalid = |error: csv::Error| DataError::Invalid {
        path: file.to_path_buf(),
        message: format!("is not valid csv ({error})"),
    };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(invalid)?.clone();
    let twice = header.iter().enumerate().find(|(place, name)| header.iter().take(*place).any(|other| other == *name));
    if let Some((_, name)) = twice {
        let message = format!("has two columns `{name}`; rename or remove one");
        return Err(DataError::Invalid { path: file.to_path_buf(), message });
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(invalid)?;
        let line = record.position().map_or(0, csv::Position::line);
        let columns = header
            .iter()
            .zip(&record)
            .map(|(name, value)| (name.to_owned(), Ok(Value::String(value.to_owned()))))
            .collect();
        rows.push(Record::new(Place { file: file.clone(), at: At::Line(line) }, columns));
    }
    Ok(rows)
}

/// One part of a split: a name and a range in rows or in percent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selection {
    name: String,
    from: Option<i64>,
    to: Option<i64>,
    percent: bool,
}

impl Selection {
    /// The range of rows out of `rows`, as datasets' `_rel_to_abs_instr` computes it with rounding "closest".
    fn bounds(&self, rows: usize) -> (usize, usize) {
        let absolute = |boundary: Option<i64>, default: usize| {
            let Some(boundary) = boundary else { return default };
            let boundary =
                if self.percent { (boundary as f64 * rows as f64 / 100.0).round_ties_even() as i64 } else { boundary };
            let distance = usize::try_from(boundary.unsigned_abs()).unwrap_or(usize::MAX);
            if boundary < 0 { rows.saturating_sub(distance) } else { distance.min(rows) }
        };
        (absolute(self.from, 0), absolute(self.to, rows))
    }
}

fn parse_split(split: &str) -> Result<Vec<Selection>, DataError> {
    split
        .split('+')
        .map(|part| parse_selection(part.trim()).ok_or_else(|| DataError::BadSplit { split: split.to_owned() }))
        .collect()
}

fn parse_selection(text: &str) -> Option<Selection> {
    let (name, slice) = match text.split_once('[') {
        Some((name, slice)) => (name, Some(slice.strip_suffix(']')?)),
        None => (text, None),
    };
    let of_name = |letter: char| letter.is_alphanumeric() || "_.-".contains(letter);
    if name.is_empty() || !name.chars().all(of_name) {
        return None;
    }
    let (from, to) = slice.map_or(Some((None, None)), |slice| {
        let (from, to) = slice.split_once(':')?;
        Some((parse_boundary(from)?, parse_boundary(to)?))
    })?;
    // As in datasets, one percent sign makes both boundaries percentages.
    let percent = [from, to].into_iter().flatten().any(|(_, percent)| percent);
    let (from, to) = (from.map(|(value, _)| value), to.map(|(value, _)| value));
    if percent && [from, to].into_iter().flatten().any(|value| value.abs() > 100) {
        return None;
    }
    Some(Selection { name: name.to_owned(), from, to, percent })
}

/// `None`: not a boundary; `Some(None)`: left out; else its value and whether it is in percent.
fn parse_boundary(text: &str) -> Option<Option<(i64, bool)>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    let (number, percent) = text.strip_suffix('%').map_or((text, false), |number| (number, true));
    number.replace('_', "").parse().ok().map(|value| Some((value, percent)))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
