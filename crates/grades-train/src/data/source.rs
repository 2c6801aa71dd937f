//! Rows of data sets: of files (jsonl, json, csv, parquet, tar; all but parquet also compressed), of folders with files for each
//! split, and of sets of the Hugging Face Hub; and slices of them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::iter;
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::record::Record;
use super::rows::Rows;
use super::{files, rows};
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
        select(Path::new(self.path), split, self.finder(hub)?)
    }

    /// What finds the files of a split: those of a folder, or those of the Hub's listing, which it fetches.
    fn finder(&self, hub: &Hub) -> Result<impl Fn(&str) -> Result<Vec<PathBuf>, DataError>, DataError> {
        let Self { path, name, revision } = *self;
        let set = Path::new(path);
        let snapshot = if self.is_local()? { None } else { Some(hub.data_set(path, revision)?) };
        Ok(move |split: &str| match &snapshot {
            None => local(set, name, split),
            Some(snapshot) => {
                let files = files::of_split(set, snapshot.files(), name, split)?;
                files.into_iter().map(|file| Ok(snapshot.fetch(file)?)).collect()
            }
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
        let mut first = Vec::new();
        for file in files::of_split(set, snapshot.files(), name, split)? {
            if first.len() < limit {
                for row in rows::rows(&snapshot.fetch(file)?)?.take(limit - first.len()) {
                    first.push(row?);
                }
            }
        }
        Ok(first)
    }
}

impl Source<'_> {
    /// The rows that `split` selects, as they are read; of the Hub each file is fetched when its rows are asked for.
    ///
    /// # Errors
    /// As of [`read`](Self::read), as far as that shows before any file is opened; or a slice of `split` counts from the end or in
    /// percent of what is not known yet.
    pub(super) fn stream(&self, split: Option<&str>, hub: Hub) -> Result<Rows, DataError> {
        let Self { path, .. } = *self;
        let mut parts: Vec<Selected> = Vec::new();
        for selection in parse_split(split.unwrap_or("train"))? {
            let Some(range) = selection.counted() else {
                return Err(DataError::Format(format!(
                    "split `{}` of data set {path} counts from the end or in percent, and `streaming` does not know how many rows \
                     there are; write rows from the beginning, such as train[1000:2000]",
                    split.unwrap_or("train")
                )));
            };
            let (rows, _) = self.opened(&selection.name, &hub, rows::rows)?;
            parts.push(Selected { rows, range, at: 0, given: false, empty: None });
        }
        Ok(Box::new(parts.into_iter().flatten()))
    }

    /// The same, of which each file and each part of the split must have some; one that counts from the end or in percent is read at
    /// once.
    ///
    /// # Errors
    /// As of [`read`](Self::read), as far as that shows before any file is opened; the rest comes in the place of a row.
    pub(crate) fn rows(&self, split: Option<&str>, hub: Hub) -> Result<Rows, DataError> {
        let selections = parse_split(split.unwrap_or("train"))?;
        let mut parts: Vec<Selected> = Vec::new();
        for selection in &selections {
            let Some(range) = selection.counted().filter(|(from, to)| from < to) else {
                return Ok(Box::new(self.read(split, &hub)?.into_iter().map(Ok)));
            };
            let (rows, path) = self.opened(&selection.name, &hub, some_rows)?;
            let split = split.unwrap_or("train").to_owned();
            let empty: Empty = Box::new(|rows| DataError::EmptySplit { path, split, rows });
            parts.push(Selected { rows, range, at: 0, given: false, empty: Some(empty) });
        }
        Ok(Box::new(parts.into_iter().flatten()))
    }

    /// The rows of a split's files, each opened by `open`, and of the Hub fetched, when its rows are asked for; and the path of the
    /// one file, or of the set.
    fn opened(
        &self,
        split: &str,
        hub: &Hub,
        open: fn(&Path) -> Result<Rows, DataError>,
    ) -> Result<(Rows, PathBuf), DataError> {
        let Self { path, name, revision } = *self;
        let set = Path::new(path);
        let mut of_messages = set.to_owned();
        let files: Vec<Open> = if self.is_local()? {
            let files = local(set, name, split)?;
            if let [file] = files.as_slice() {
                of_messages.clone_from(file);
            }
            let open = |file: PathBuf| -> Open { Box::new(move || open(&file)) };
            files.into_iter().map(open).collect()
        } else {
            let snapshot = hub.data_set(path, revision)?;
            let open = |file: &str| -> Open {
                let (hub, set, revision) = (hub.clone(), path.to_owned(), revision.map(str::to_owned));
                let file = file.to_owned();
                Box::new(move || open(&hub.data_set(&set, revision.as_deref())?.fetch(&file)?))
            };
            files::of_split(set, snapshot.files(), name, split)?.into_iter().map(open).collect()
        };
        let rows = files.into_iter().flat_map(|open| open().unwrap_or_else(|error| Box::new(iter::once(Err(error)))));
        Ok((Box::new(rows), of_messages))
    }

    /// Gives the names and bytes of the files that `split` means to `sink`.
    ///
    /// # Errors
    /// As of [`read`](Self::read), as far as it is about files.
    pub(crate) fn contents(
        &self,
        split: Option<&str>,
        hub: &Hub,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DataError> {
        let find = self.finder(hub)?;
        for selection in parse_split(split.unwrap_or("train"))? {
            for path in find(&selection.name)? {
                let failed = |source| DataError::Read { path: path.clone(), source };
                let length = path.metadata().map_err(failed)?.len();
                let file_name = path.file_name().unwrap_or_default().as_encoded_bytes();
                sink(&[file_name, &[0], &length.to_le_bytes()].concat());
                let mut file = BufReader::with_capacity(1 << 20, File::open(&path).map_err(failed)?);
                loop {
                    let bytes = file.fill_buf().map_err(failed)?;
                    if bytes.is_empty() {
                        break;
                    }
                    sink(bytes);
                    let read = bytes.len();
                    file.consume(read);
                }
            }
        }
        Ok(())
    }

    /// Whether it is a file or folder, or is at least no set of the Hub.
    fn is_local(&self) -> Result<bool, DataError> {
        let exists = Path::new(self.path).exists();
        if exists && self.revision.is_some() {
            return Err(DataError::Format(format!(
                "revision of data set {} is not used, as it is a local file or folder; remove it",
                self.path
            )));
        }
        Ok(exists || !is_id(self.path))
    }
}

/// Opens a file.
type Open = Box<dyn FnOnce() -> Result<Rows, DataError> + Send>;
/// What is said where of so many rows none is selected.
type Empty = Box<dyn FnOnce(usize) -> DataError + Send>;

/// The rows of a range.
struct Selected {
    rows: Rows,
    range: (usize, usize),
    /// The row that comes next.
    at: usize,
    /// Whether there was one.
    given: bool,
    empty: Option<Empty>,
}

impl Iterator for Selected {
    type Item = Result<Record, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.range.1 {
            let Some(row) = self.rows.next() else {
                self.range.1 = 0;
                return self.empty.take().filter(|_| !self.given).map(|empty| Err(empty(self.at)));
            };
            self.at += 1;
            if self.at > self.range.0 || row.is_err() {
                self.given = true;
                return Some(row);
            }
        }
        None
    }
}

/// The rows of a file, of which there must be one.
fn some_rows(path: &Path) -> Result<Rows, DataError> {
    let mut rows = rows::rows(path)?.peekable();
    match rows.peek() {
        Some(_) => Ok(Box::new(rows)),
        None => Err(DataError::NoRows { path: path.to_owned() }),
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

/// All rows of a file, of which there must be one.
fn read_file(path: &Path) -> Result<Vec<Record>, DataError> {
    some_rows(path)?.collect()
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

impl Selection {
    /// The range of rows, where that does not depend on how many there are.
    fn counted(&self) -> Option<(usize, usize)> {
        if self.percent {
            return None;
        }
        let row = |row: Option<i64>, otherwise| row.map_or(Some(otherwise), |row| usize::try_from(row).ok());
        Some((row(self.from, 0)?, row(self.to, usize::MAX)?))
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
