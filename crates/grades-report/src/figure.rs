//! A drawing with its numbers, alone, on a page and in files.

use std::fs;
use std::path::Path;

use crate::error::ReportError;
use crate::page::escape;
use crate::svg;
use crate::table::Table;

/// The rows of a table that a page shows at most; files of their own hold all.
const SHOWN_ROWS: usize = 200;

/// A drawing with the numbers behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The name of its files.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// The drawing.
    pub svg: String,
    /// Its numbers.
    pub table: Table,
}

impl Figure {
    /// As a page shows it.
    #[must_use]
    pub fn html(&self) -> String {
        let note = if self.note.is_empty() { String::new() } else { format!("<p>{}</p>\n", escape(&self.note)) };
        format!(
            "<figure>\n<h3>{}</h3>\n{note}{}<details><summary>Numbers</summary>\n{}</details>\n</figure>\n",
            escape(&self.title),
            self.svg,
            self.table.thinned(SHOWN_ROWS).html()
        )
    }
}

/// Whether files may be written into a folder: there is none, or it is empty.
///
/// # Errors
/// If there is something.
pub fn check_folder(folder: &Path) -> Result<(), ReportError> {
    let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || folder.is_file() { Err(ReportError::Occupied { path: folder.into() }) } else { Ok(()) }
}

/// Writes every figure into a new or empty folder as SVG, `<name>.svg`.
///
/// # Errors
/// If there is something in the folder, or it cannot be written.
pub fn write_svg(folder: &Path, figures: &[Figure]) -> Result<(), ReportError> {
    write_files(folder, figures.iter().map(|figure| (format!("{}.svg", figure.name), svg::standalone(&figure.svg))))
}

/// Writes the numbers of every figure into a new or empty folder, `<name>.csv`.
///
/// # Errors
/// If there is something in the folder, or it cannot be written.
pub fn write_csv(folder: &Path, figures: &[Figure]) -> Result<(), ReportError> {
    write_files(folder, figures.iter().map(|figure| (format!("{}.csv", figure.name), figure.table.csv())))
}

fn write_files(folder: &Path, files: impl Iterator<Item = (String, String)>) -> Result<(), ReportError> {
    check_folder(folder)?;
    fs::create_dir_all(folder).map_err(|source| grades_fs::Error { path: folder.to_owned(), source })?;
    for (name, contents) in files {
        grades_fs::write(&folder.join(name), contents)?;
    }
    Ok(())
}
