use std::path::PathBuf;

use grades_report::record::Summary;

use super::questions::Answers;

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
