//! Rows of a tar file as webdataset lays them out: the members that share a name up to its first full stop are one row.
//! `KEY.json` gives it columns, `KEY.txt` and `KEY.cls` columns of those names, and `KEY.jpg` (or png, webp, gif, bmp; also
//! several, as `KEY.0.jpg`) its pictures, the column `images`.

use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::compressed::Contents;
use super::error::DataError;
use super::json;
use super::parquet::Row;

const PICTURES: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// Reads all rows.
///
/// # Errors
/// The file cannot be read, is no tar file or a damaged one, or a member is not what its name says.
pub(super) fn rows(path: &Path, contents: Contents) -> Result<Vec<Row>, DataError> {
    let invalid = |message: String| DataError::Invalid { path: path.to_owned(), message };
    let broken = |error: std::io::Error| invalid(format!("is no whole tar file ({error})"));
    let mut archive = tar::Archive::new(BufReader::new(contents));
    let mut rows: Vec<(String, Row)> = Vec::new();
    for member in archive.entries().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let base = name.rsplit('/').next().unwrap_or_default();
        // hidden files are no rows: macOS puts such beside every other
        let (true, false, Some((stem, suffix))) =
            (member.header().entry_type().is_file(), base.starts_with('.'), base.split_once('.'))
        else {
            continue;
        };
        let key = format!("{}{stem}", &name[..name.len() - base.len()]);
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(broken)?;
        if rows.last().is_none_or(|(last, _)| *last != key) {
            rows.push((key, Row::default()));
        }
        if let Some((_, row)) = rows.last_mut() {
            add(row, &name, &suffix.to_ascii_lowercase(), bytes)
                .map_err(|problem| invalid(format!("has a member {name}, {problem}")))?;
        }
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Adds a member to its row.
fn add(row: &mut Row, name: &str, suffix: &str, bytes: Vec<u8>) -> Result<(), String> {
    let kind = suffix.rsplit('.').next().unwrap_or_default();
    let text = |bytes| String::from_utf8(bytes).map_err(|_| "whose text is not UTF-8; convert it".to_owned());
    let mut added = match kind {
        "json" => json::object(&text(bytes)?).map_err(|error| format!("which is not one JSON object ({error})"))?,
        "txt" | "cls" => vec![(suffix.to_owned(), Ok(Value::String(text(bytes)?.trim_end_matches('\n').to_owned())))],
        kind if PICTURES.contains(&kind) => {
            row.blobs.push(Arc::from(bytes));
            let picture = json!({"bytes": row.blobs.len() - 1, "path": name});
            let list = row.columns.iter_mut().find(|(column, _)| column == "images");
            match list {
                Some((_, Ok(Value::Array(list)))) => list.push(picture),
                Some(_) => return Err("but also a column `images` that is no list; remove one".to_owned()),
                None => row.columns.push(("images".to_owned(), Ok(json!([picture])))),
            }
            return Ok(());
        }
        // there, and an error where it is asked for
        _ => vec![(suffix.to_owned(), Err(format!("it is a file that is not read, {name}")))],
    };
    if let Some((column, _)) = added.iter().find(|(column, _)| row.columns.iter().any(|(known, _)| known == column)) {
        return Err(format!("which gives its row the column `{column}` again; remove one"));
    }
    row.columns.append(&mut added);
    Ok(())
}
