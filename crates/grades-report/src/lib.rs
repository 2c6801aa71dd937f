//! What happened in one run or several: the records that a run leaves in its directory ([`record`]), and what they show, as
//! one HTML file, as drawings and as tables. Reads run directories only, and needs no tensors, so that whatever leaves such
//! files can be shown.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make the files that they need"))]

pub mod answers;
mod axis;
mod chart;
pub mod csv;
mod error;
mod figure;
mod figures;
mod groups;
mod live;
pub mod number;
pub mod page;
pub mod record;
mod report;
mod run;
pub mod samples;
mod series;
mod signals;
mod summary;
pub mod svg;
pub mod table;

pub use axis::Unit;
pub use chart::Chart;
pub use error::ReportError;
pub use figure::{Drawing, Figure, check_folder, write_csv, write_svg};
pub use groups::Group;
pub use report::{clocks, figures, html, overlay, write_into};
pub use run::{Arithmetic, Run, read};
pub use series::{Look, Mark, Series, Spread, Weight};

#[cfg(test)]
mod tests;
