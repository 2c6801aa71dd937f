//! Rows of a parquet file as JSON has them: text, numbers, truth values, lists and structs of them. Other types have no form in
//! JSON; a column of one can be there, but not be used. Bytes of pictures are kept beside the columns, which have their numbers.

use std::fs::File;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::Decimal;
use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::Field;
use parquet::record::reader::RowIter;
use serde_json::{Map, Number, Value};

use self::headers::Walked;
use super::error::DataError;
use super::record::Columns;

mod headers;

/// A row: its columns, and the bytes that they number.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) columns: Columns,
    pub(super) blobs: Vec<Arc<[u8]>>,
}

/// The rows of a file as they are read.
///
/// # Errors
/// The file cannot be read, is no parquet or a damaged one, or is compressed by something that is not known here; what is
/// damaged behind its beginning is the last item.
pub(super) fn rows(path: &Path) -> Result<impl Iterator<Item = Result<Row, DataError>> + Send + use<>, DataError> {
    let path: Arc<Path> = path.into();
    let mut rows = guarded(&path, || {
        let file = File::open(&path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
        let reader = SerializedFileReader::new(Walked(file)).map_err(|error| explain(&path, &error))?;
        Ok(RowIter::from_file_into(Box::new(reader)))
    })?;
    Ok(iter::from_fn(move || {
        let next = guarded(&path, || rows.next().transpose().map_err(|error| explain(&path, &error)));
        next.map(|row| row.as_ref().map(read)).transpose()
    }))
}

/// Of some damages the library takes no notice until it indexes past the end of a page.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        let message = "is not valid parquet (a page is damaged)".to_owned();
        Err(DataError::Invalid { path: path.to_owned(), message })
    })
}

fn read(row: &parquet::record::Row) -> Row {
    let mut blobs = Vec::new();
    let columns = row.get_column_iter().map(|(name, field)| (name.clone(), value(field, &mut blobs))).collect();
    Row { columns, blobs }
}

/// A value as JSON has it, or why it has none. The bytes of a picture go to `blobs`.
fn value(field: &Field, blobs: &mut Vec<Arc<[u8]>>) -> Result<Value, String> {
    let float = |number: f64| Number::from_f64(number).map(Value::Number).ok_or_else(|| format!("it holds {number}"));
    let other = |kind: &str| Err(format!("it holds {kind}, which is no text or number; write it as one"));
    match field {
        Field::Null => Ok(Value::Null),
        Field::Bool(value) => Ok((*value).into()),
        Field::Byte(number) => Ok((*number).into()),
        Field::Short(number) => Ok((*number).into()),
        Field::Int(number) => Ok((*number).into()),
        Field::Long(number) => Ok((*number).into()),
        Field::UByte(number) => Ok((*number).into()),
        Field::UShort(number) => Ok((*number).into()),
        Field::UInt(number) => Ok((*number).into()),
        Field::ULong(number) => Ok((*number).into()),
        Field::Float16(number) => float((*number).into()),
        Field::Float(number) => float((*number).into()),
        Field::Double(number) => float(*number),
        Field::Decimal(number) => decimal(number).map_or_else(|| other("a decimal that is too long"), Ok),
        Field::Str(text) => Ok(text.as_str().into()),
        // Some writers leave out that bytes are text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err("it holds bytes that are not UTF-8 text".to_owned()),
        },
        Field::Date(_) => other("a date"),
        Field::TimeMillis(_) | Field::TimeMicros(_) => other("a time"),
        Field::TimestampMillis(_) | Field::TimestampMicros(_) => other("a time stamp"),
        Field::Group(row) => object(row, blobs),
        Field::ListInternal(list) => list.elements().iter().map(|field| value(field, blobs)).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| match key {
                Field::Str(key) => Ok((key.clone(), value(field, blobs)?)),
                _ => Err("it holds a map whose keys are no text".to_owned()),
            };
            map.entries().iter().map(entry).collect::<Result<Map<_, _>, _>>().map(Value::Object)
        }
    }
}

/// A struct. All of a column have the same fields, so one that is null in it is none: else a message would have the fields of
/// all others. One that is called `bytes` and holds some is a picture's, as `datasets` writes them.
fn object(row: &parquet::record::Row, blobs: &mut Vec<Arc<[u8]>>) -> Result<Value, String> {
    let there = row.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    let member = |(name, field): (&String, &Field)| match field {
        Field::Bytes(bytes) if name == "bytes" => {
            blobs.push(bytes.data().into());
            Ok((name.clone(), Value::from(blobs.len() - 1)))
        }
        _ => Ok((name.clone(), value(field, blobs)?)),
    };
    there.map(member).collect::<Result<Map<_, _>, _>>().map(Value::Object)
}

/// A number as JSON writes it: a whole one, or the nearest double.
fn decimal(decimal: &Decimal) -> Option<Value> {
    let bytes = decimal.data();
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let mut whole = [if negative { 0xFF } else { 0 }; 16];
    whole.get_mut(16_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    let unscaled = i128::from_be_bytes(whole);
    let scale = u32::try_from(decimal.scale()).ok()?;
    let unit = 10_i128.checked_pow(scale)?;
    if unscaled % unit == 0 {
        return i64::try_from(unscaled / unit).ok().map(Value::from);
    }
    // Through text, so that it is rounded once.
    let text = format!("{unscaled}e-{scale}");
    Number::from_f64(text.parse().ok()?).map(Value::Number)
}

fn explain(path: &Path, error: &ParquetError) -> DataError {
    let text = error.to_string();
    let message = match text.split_once("Disabled feature at compile time: ") {
        Some((_, codec)) => format!("is compressed by {codec}; write it with zstd, snappy or gzip"),
        None => format!("is not valid parquet ({})", text.replace('\n', " ")),
    };
    DataError::Invalid { path: path.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A file that `fixtures/make_parquet.py` wrote.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/parquet").join(name)
    }

    fn rows(path: &Path) -> Result<Vec<Row>, DataError> {
        super::rows(path)?.collect()
    }

    /// Without what is null in a struct, which is not there.
    fn without_nulls(value: Value, inside: bool) -> Value {
        match value {
            Value::Object(map) => {
                let there = map.into_iter().filter(|(_, value)| !inside || !value.is_null());
                there.map(|(key, value)| (key, without_nulls(value, true))).collect()
            }
            Value::Array(items) => items.into_iter().map(|item| without_nulls(item, true)).collect(),
            other => other,
        }
    }

    #[test]
    fn rows_are_those_that_were_written() {
        let wanted: Vec<Value> = fs::read_to_string(fixture("rows.jsonl"))
            .unwrap()
            .lines()
            .map(|line| without_nulls(serde_json::from_str(line).unwrap(), false))
            .collect();
        assert_eq!(wanted.len(), 5);
        for name in ["datasets.parquet", "plain.parquet", "zstd.parquet", "gzip.parquet", "lz4.parquet"] {
            let object = |row: Row| -> Value { row.columns.into_iter().map(|(k, v)| (k, v.unwrap())).collect() };
            let rows: Vec<Value> = rows(&fixture(name)).unwrap().into_iter().map(object).collect();
            assert_eq!(rows, wanted, "{name}");
        }
    }

    #[test]
    fn other_types_are_read_as_what_they_stand_for_or_not_used() {
        let wanted: Map<String, Value> = serde_json::from_slice(&fs::read(fixture("kinds.json")).unwrap()).unwrap();
        let row = rows(&fixture("kinds.parquet")).unwrap().remove(0).columns;
        assert_eq!(row.len(), wanted.len());
        for (name, value) in row {
            match &wanted[&name] {
                Value::Null => assert!(value.unwrap_err().starts_with("it holds "), "{name}"),
                wanted => assert_eq!(value.as_ref(), Ok(wanted), "{name}"),
            }
        }
    }

    #[test]
    fn what_is_not_read_is_told_in_a_sentence() {
        let error = rows(&fixture("brotli.parquet")).unwrap_err().to_string();
        assert!(
            error.contains("brotli.parquet") && error.ends_with("by brotli; write it with zstd, snappy or gzip"),
            "{error}"
        );
        let error = rows(&fixture("rows.jsonl")).unwrap_err().to_string();
        assert!(error.contains("rows.jsonl: the file is not valid parquet") && !error.contains('\n'), "{error}");
        assert!(matches!(rows(&fixture("absent.parquet")), Err(DataError::Read { .. })));
    }

    /// No byte of a file ends the program.
    #[test]
    fn damaged_files_are_refused_or_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.parquet");
        let mut refused = 0;
        for name in ["datasets.parquet", "plain.parquet", "zstd.parquet", "gzip.parquet", "lz4.parquet"] {
            let whole = fs::read(fixture(name)).unwrap();
            for place in (0..whole.len()).step_by(31) {
                let mut bytes = whole.clone();
                bytes[place] ^= 1 << (place % 8);
                fs::write(&path, &bytes).unwrap();
                refused += usize::from(rows(&path).is_err());
            }
            for length in (0..whole.len()).step_by(97) {
                fs::write(&path, &whole[..length]).unwrap();
                assert!(rows(&path).is_err(), "{name} cut at {length}");
            }
        }
        assert!(refused > 20, "{refused}");
    }
}
