//! Methods beside one another on one model and data: which runs, making those that are missing, what they show.
//!
//! ```text
//! Plan::new(variants, options)          every mistake in the config, the names or the data shows here
//!     .run(call, log)                   trains and scores what is not there yet, each in a process of its own
//!         → Comparison                  rows, paired tests, failures
//!             .write(folder)            compare.md, .csv, .json, .html
//! ```
//!
//! The caller starts processes: it gets the arguments of a `grades` call ([`Call`]) and reports its success. So each run has
//! its own peak of memory, and one that fails takes no other with it.

pub mod cell;
mod make;
mod outcome;
mod page;
mod plan;
mod questions;
pub mod significance;
pub mod sweep;
mod tables;

use std::io;
use std::path::{Path, PathBuf};

pub use cell::{Call, Caller, Cell, Folder};
pub use outcome::{Comparison, Failure, Row, Test};
pub use plan::{Options, Plan, Runs};
pub use questions::{Answers, Metric, Questions, Scored};
pub use sweep::{Grid, Sweep};

use crate::config::ConfigError;
use crate::data::DataError;
use grades_report::record::Summary;

/// A finished run with its answers.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its directory.
    pub run: PathBuf,
    /// What it came to.
    pub summary: Summary,
    /// How it answered, by task.
    pub answers: Answers,
}

/// What can go wrong with a comparison as a whole; each message names the file, and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The folder holds something else.
    #[error("{}: this folder holds something that is no comparison; give a new one", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A run of the same name was made with other options.
    #[error("{}: this run was made with {key}: {was}, but now it would be {now}; give another folder, or remove this run and its \
             file in configs/", path.display())]
    OtherConfig {
        /// The run.
        path: PathBuf,
        /// The first option that differs.
        key: String,
        /// Its value then.
        was: String,
        /// Its value now.
        now: String,
    },
    /// Stored answers do not fit the questions.
    #[error(
        "{}: these answers are to other questions than those of the data folder now; remove the file, or give the data that \
         they were made with", path.display()
    )]
    OtherQuestions {
        /// The answers.
        path: PathBuf,
    },
    /// A file or folder cannot be written whole.
    #[error(transparent)]
    File(#[from] grades_fs::Error),
    /// A file cannot be read, or a folder not made.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: the file is damaged ({problem}); remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A name that nothing has.
    #[error("{0}")]
    Unknown(String),
    /// A run or an evaluation that failed.
    #[error("{name}: {message}")]
    Failed {
        /// The run.
        name: String,
        /// Why.
        message: String,
    },
    /// The config of a run.
    #[error("{name}: {source}")]
    Config {
        /// The run.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The config that all share.
    #[error(transparent)]
    Common(#[from] ConfigError),
    /// The questions.
    #[error(transparent)]
    Data(#[from] DataError),
    /// What a run would be cannot be told.
    #[error(transparent)]
    Train(#[from] crate::train::TrainError),
    /// The page.
    #[error(transparent)]
    Report(#[from] grades_report::ReportError),
}

impl CompareError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Writes a result into its folder, in place of an older one: Markdown, CSV, JSON and HTML.
fn write_all(folder: &Path, name: &str, [markdown, csv, json, html]: [&str; 4]) -> Result<(), CompareError> {
    for (ending, text) in [("md", markdown), ("csv", csv), ("json", json)] {
        grades_fs::write(&folder.join(format!("{name}.{ending}")), text)?;
    }
    Ok(grades_report::page::save(&folder.join(format!("{name}.html")), html)?)
}

#[cfg(test)]
mod tests;
