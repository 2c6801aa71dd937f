//! A drawing with its numbers, alone, on a page and in files.

use std::fs;
use std::path::Path;

use crate::chart::Chart;
use crate::error::ReportError;
use crate::live;
use crate::page::escape;
use crate::svg;
use crate::table::Table;

/// A drawing.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawing {
    /// Lines and points, which a page lets its reader act on.
    Chart(Chart),
    /// Another one, as SVG.
    Fixed(String),
}

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
    pub drawing: Drawing,
    /// Its numbers.
    pub table: Table,
    /// The rows of the table that a page shows at most; files of their own hold all.
    pub shown_rows: usize,
}

impl Figure {
    /// A chart with its numbers.
    #[must_use]
    pub fn of(name: impl Into<String>, note: impl Into<String>, chart: Chart, table: Table) -> Self {
        let (name, title, note) = (name.into(), chart.title.clone(), note.into());
        Self { name, title, note, drawing: Drawing::Chart(chart), table, shown_rows: 200 }
    }

    /// Another drawing, as SVG, with its numbers.
    #[must_use]
    pub fn fixed(name: impl Into<String>, title: &str, note: impl Into<String>, svg: String, table: Table) -> Self {
        let (name, title, note) = (name.into(), title.to_owned(), note.into());
        Self { name, title, note, drawing: Drawing::Fixed(svg), table, shown_rows: 200 }
    }

    /// The drawing as SVG that says everything by itself.
    #[must_use]
    pub fn svg(&self) -> String {
        match &self.drawing {
            Drawing::Chart(chart) => chart.svg(),
            Drawing::Fixed(svg) => svg.clone(),
        }
    }

    /// Whether it has nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.drawing {
            Drawing::Chart(chart) => chart.is_empty(),
            Drawing::Fixed(_) => self.table.rows().is_empty(),
        }
    }

    /// As a page shows it.
    #[must_use]
    pub fn html(&self) -> String {
        let note = if self.note.is_empty() { String::new() } else { format!("<p>{}</p>\n", escape(&self.note)) };
        let drawn = match &self.drawing {
            Drawing::Chart(chart) => live::html(chart),
            Drawing::Fixed(svg) => svg.clone(),
        };
        format!(
            "<figure id=\"{}\">\n<h3>{}</h3>\n{note}{drawn}<details><summary>Numbers</summary>\n{}</details>\n</figure>\n",
            escape(&self.name),
            escape(&self.title),
            self.table.thinned(self.shown_rows).html()
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
    write_files(folder, figures.iter().map(|figure| (format!("{}.svg", figure.name), svg::standalone(&figure.svg()))))
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
