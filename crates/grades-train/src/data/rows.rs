//! The rows of a file, one after another: of jsonl, csv and parquet as they are read, of json and tar all at once.

use std::io::{BufRead, BufReader, Read};
use std::iter;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::compressed::{Contents, Origin};
use super::error::DataError;
use super::files::Kind;
use super::record::{At, Place, Record};
use super::{json, parquet, webdataset};

/// Rows as they come. Behind a row that cannot be used others may follow; any other error is the end.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<Record, DataError>> + Send>;

/// The rows of a file; it may have none.
///
/// # Errors
/// The file cannot be read, or is not what its name says, as far as that shows at its beginning.
pub(super) fn rows(path: &Path) -> Result<Rows, DataError> {
    let Some(Kind { format, compression, .. }) = Kind::of(path) else {
        return Err(DataError::Unsupported { path: path.to_owned() });
    };
    let file: Arc<Path> = path.into();
    let numbered = |rows: Box<dyn Iterator<Item = Result<parquet::Row, DataError>> + Send>| {
        let row = move |(row, read): (usize, Result<parquet::Row, DataError>)| {
            let place = Place { file: file.clone(), at: At::Row(row) };
            read.map(|read| Record::new(place, read.columns).with_blobs(read.blobs))
        };
        Box::new((1..).zip(rows).map(row)) as Rows
    };
    if format == "parquet" {
        return Ok(until_the_end(numbered(Box::new(parquet::rows(path)?))));
    }
    let contents = Contents::open(path, compression)?;
    Ok(until_the_end(match format {
        "tar" => numbered(Box::new(webdataset::rows(path, contents)?.into_iter().map(Ok))),
        "jsonl" => Box::new(JsonLines::new(path, contents)),
        "json" => Box::new(json_array(path, contents)?.into_iter()),
        _ => csv_rows(path, contents)?,
    }))
}

/// Ends behind the first error that is not about a row alone.
fn until_the_end(mut rows: Rows) -> Rows {
    let mut ended = false;
    Box::new(iter::from_fn(move || {
        let row = if ended { None } else { rows.next() };
        ended = matches!(&row, Some(Err(error)) if !matches!(error, DataError::Row { .. }));
        row
    }))
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn not_utf8(place: &Place) -> DataError {
    DataError::Row { place: place.to_string(), message: "the text is not UTF-8; convert the file".to_owned() }
}

/// The lines of a file, each one object.
struct JsonLines {
    file: Arc<Path>,
    origin: Origin,
    reader: BufReader<Contents>,
    line: u64,
    bytes: Vec<u8>,
}

impl JsonLines {
    fn new(path: &Path, contents: Contents) -> Self {
        let origin = contents.origin();
        let reader = BufReader::with_capacity(1 << 16, contents);
        Self { file: path.into(), origin, reader, line: 0, bytes: Vec::new() }
    }

    fn record(&self) -> Option<Result<Record, DataError>> {
        let place = Place { file: self.file.clone(), at: At::Line(self.line) };
        let bytes = if self.line == 1 { self.bytes.strip_prefix(BYTE_ORDER_MARK) } else { None };
        let Ok(text) = std::str::from_utf8(bytes.unwrap_or(&self.bytes)) else { return Some(Err(not_utf8(&place))) };
        if text.trim().is_empty() {
            return None;
        }
        Some(match json::object(text.trim_end_matches(['\r', '\n'])) {
            Ok(columns) => Ok(Record::new(place, columns)),
            Err(error) => {
                let problem = format!("the line is not one JSON object ({})", without_position(&error));
                Ok(Record::broken(place, problem))
            }
        })
    }
}

impl Iterator for JsonLines {
    type Item = Result<Record, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.bytes.clear();
            match self.reader.read_until(b'\n', &mut self.bytes) {
                Err(error) => return Some(Err(self.origin.failed(error))),
                Ok(0) => return None,
                Ok(_) => self.line += 1,
            }
            if let Some(record) = self.record() {
                return Some(record);
            }
        }
    }
}

/// serde_json counts lines within the text it got; the place already names the line of the file.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => format!("{}, column {}", &message[..end], error.column()),
        None => message,
    }
}

fn read_text(path: &Path, mut contents: Contents) -> Result<String, DataError> {
    let (origin, mut bytes) = (contents.origin(), Vec::new());
    contents.read_to_end(&mut bytes).map_err(|error| origin.failed(error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        not_utf8(&Place { file: path.into(), at: At::Line(line) })
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn json_array(path: &Path, contents: Contents) -> Result<Vec<Result<Record, DataError>>, DataError> {
    let invalid = |message: String| DataError::Invalid { path: path.to_owned(), message };
    let read = json::objects(&read_text(path, contents)?)
        .map_err(|error| invalid(format!("is not JSON ({error}); if it has one object a line, name it .jsonl")))?;
    let items = match read {
        json::Objects::Rows(rows) => rows,
        json::Objects::NoData => {
            return Err(invalid("holds an object without a list `data`; put the rows into a list".to_owned()));
        }
        json::Objects::Other => return Err(invalid("must hold a list of objects".to_owned())),
    };
    let file: Arc<Path> = path.into();
    let record = |(row, item): (usize, Option<_>)| {
        let place = Place { file: file.clone(), at: At::Row(row) };
        let message = || "the row is not an object".to_owned();
        match item {
            Some(columns) => Ok(Record::new(place, columns)),
            None => Err(DataError::Row { place: place.to_string(), message: message() }),
        }
    };
    Ok((1..).zip(items).map(record).collect())
}

fn csv_rows(path: &Path, contents: Contents) -> Result<Rows, DataError> {
    let (origin, file): (Origin, Arc<Path>) = (contents.origin(), path.into());
    let named = file.clone();
    let failed = move |error: csv::Error| {
        let at = error.position().map_or(1, csv::Position::line);
        match error.into_kind() {
            csv::ErrorKind::Io(error) => origin.failed(error),
            csv::ErrorKind::Utf8 { .. } => not_utf8(&Place { file: named.clone(), at: At::Line(at) }),
            kind => {
                let message = format!("is not valid csv ({})", reason(kind));
                DataError::Invalid { path: named.to_path_buf(), message }
            }
        }
    };
    let mut reader = csv::Reader::from_reader(contents);
    let header = reader.headers().map_err(&failed)?.clone();
    let twice = header.iter().enumerate().find(|(place, name)| header.iter().take(*place).any(|other| other == *name));
    if let Some((_, name)) = twice {
        let message = format!("has two columns `{name}`; rename or remove one");
        return Err(DataError::Invalid { path: path.to_owned(), message });
    }
    Ok(Box::new(reader.into_records().map(move |record| {
        let record = record.map_err(&failed)?;
        let line = record.position().map_or(0, csv::Position::line);
        let column = |(name, value): (&str, &str)| (name.to_owned(), Ok(Value::String(value.to_owned())));
        let columns = header.iter().zip(&record).map(column).collect();
        Ok(Record::new(Place { file: file.clone(), at: At::Line(line) }, columns))
    })))
}

/// What is wrong with a table.
fn reason(kind: csv::ErrorKind) -> String {
    match kind {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |pos| pos.line());
            format!("line {line} has {len} fields, where the header has {expected_len}")
        }
        other => format!("{other:?}"),
    }
}
