use std::path::PathBuf;

use grades_report::record::Summary;

use super::questions::{Answers, Given};

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

impl Finished {
    /// How it answered the questions of a task.
    #[must_use]
    pub fn answers_to(&self, task: &str) -> &[Given] {
        self.answers.get(task).map_or(&[], Vec::as_slice)
    }
}
