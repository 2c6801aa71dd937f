//! The report of run directories.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::value_error;

/// Writes the report of these run directories as one HTML file. Only an older report is replaced.
#[pyfunction]
pub(crate) fn report(py: Python<'_>, runs: Vec<PathBuf>, out: PathBuf) -> PyResult<()> {
    py.detach(|| {
        let runs = grades_report::read(&runs)?;
        grades_report::page::save(&out, &grades_report::html(&runs, None))
    })
    .map_err(value_error)
}

/// The figures of a run directory as (title, SVG).
#[pyfunction]
pub(crate) fn figures(py: Python<'_>, run: PathBuf) -> PyResult<Vec<(String, String)>> {
    let runs = py.detach(|| grades_report::read(&[run])).map_err(value_error)?;
    let figures = grades_report::figures(&runs).into_iter();
    let titled = |figure: grades_report::Figure| {
        let svg = grades_report::svg::standalone(&figure.svg());
        (figure.title, svg)
    };
    Ok(figures.map(titled).collect())
}
