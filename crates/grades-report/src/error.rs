use std::io;
use std::path::PathBuf;

/// What can be wrong with a report; each message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// There is no run.
    #[error("{}: there is no run in this directory (no metrics.jsonl); give the output_dir of a run", path.display())]
    NoRun {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// A line that is not what it should be.
    #[error("{}, line {line}: the line is damaged ({problem}); correct or remove it", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A file that is not what it should be.
    #[error("{}: the file is damaged ({problem}); correct or remove it", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] grades_fs::Error),
    /// Something else stands where the report should go.
    #[error("{}: this file is no report of grades, so it is not replaced; give another name", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
    },
    /// Something is in the folder for drawings or tables.
    #[error("{}: there is something in this folder already; give a new one", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
}
