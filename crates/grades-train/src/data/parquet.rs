//! Rows of a parquet file as JSON objects: text, numbers, truth values, lists and structs of them.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use super::DataError;

/// Reads all rows.
///
/// # Errors
/// The file cannot be read, is no parquet or a damaged one, or is compressed by something else than snappy.
pub(super) fn rows(path: &Path) -> Result<Vec<Map<String, Value>>, DataError> {
    // Of some damages the library takes no notice until it indexes past the end of a page.
    std::panic::catch_unwind(|| read(path)).unwrap_or_else(|_| {
        Err(DataError::Invalid {
            path: path.to_owned(),
            message: "is not valid parquet (a page is damaged)".to_owned(),
        })
    })
}

fn read(path: &Path) -> Result<Vec<Map<String, Value>>, DataError> {
    let file = File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let invalid = |error: ParquetError| DataError::Invalid { path: path.to_owned(), message: explain(&error) };
    let reader = SerializedFileReader::new(file).map_err(invalid)?;
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).map_err(invalid)? {
        if let Value::Object(columns) = row.map_err(invalid)?.to_json_value() {
            rows.push(columns);
        }
    }
    Ok(rows)
}

fn explain(error: &ParquetError) -> String {
    let text = error.to_string();
    match text.split_once("Disabled feature at compile time: ") {
        Some((_, codec)) => format!("is compressed by {codec}; write it with snappy or uncompressed"),
        None => format!("is not valid parquet ({})", text.replace('\n', " ")),
    }
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

    #[test]
    fn rows_are_those_that_were_written() {
        let wanted: Vec<Value> = fs::read_to_string(fixture("rows.jsonl"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(wanted.len(), 5);
        for name in ["datasets.parquet", "plain.parquet"] {
            let rows: Vec<Value> = rows(&fixture(name)).unwrap().into_iter().map(Value::Object).collect();
            assert_eq!(rows, wanted, "{name}");
        }
    }

    #[test]
    fn what_is_not_read_is_told_in_a_sentence() {
        let error = rows(&fixture("zstd.parquet")).unwrap_err().to_string();
        assert!(
            error.contains("zstd.parquet") && error.ends_with("by zstd; write it with snappy or uncompressed"),
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
        for name in ["datasets.parquet", "plain.parquet"] {
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
