//! Writes what a comparison or a sweep came to.

use std::path::Path;

use super::error::CompareError;
use super::outcome::Comparison;
use super::page;

/// Writes a result into its folder, in place of an older one: Markdown, CSV, JSON and HTML.
pub(super) fn write_all(folder: &Path, name: &str, [markdown, csv, json, html]: [&str; 4]) -> Result<(), CompareError> {
    for (ending, text) in [("md", markdown), ("csv", csv), ("json", json)] {
        grades_fs::write(&folder.join(format!("{name}.{ending}")), text)?;
    }
    Ok(grades_report::page::save(&folder.join(format!("{name}.html")), html)?)
}

impl Comparison {
    /// Writes `compare.md`, `compare.csv`, `compare.json` and `compare.html` into a comparison's folder, in place of older
    /// ones.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), CompareError> {
        let (json, html) = (format!("{:#}\n", self.json()), page::html("Comparison", self, folder, &[]));
        write_all(folder, "compare", [&self.markdown(), &self.csv(), &json, &html])
    }
}
