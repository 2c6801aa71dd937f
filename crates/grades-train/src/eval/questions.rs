//! The questions of a task: where they are, and rows that become them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::task::{Question, Task};
use crate::data::error::DataError;
use crate::data::format::Format;
use crate::data::record::Record;
use crate::data::samples::tell_unread;
use crate::data::source;
use crate::hub::Hub;

/// The folder that is looked for where none is given.
const DATA_DIR: &str = "data";

impl Task {
    /// The questions of `rows`, in their order; columns that they do not read are told as those of `set`.
    ///
    /// # Errors
    /// A row does not have the task's columns.
    pub fn questions(&'static self, set: &str, rows: &[Record]) -> Result<Vec<Question>, DataError> {
        let format = Format::Task(self);
        let mut unread = BTreeSet::new();
        let mut questions = Vec::with_capacity(rows.len());
        for row in rows {
            questions.push((self.question)(row)?);
            unread.extend(format.unread(row)?.into_iter().map(str::to_owned));
        }
        tell_unread(set, self.name, unread);
        Ok(questions)
    }

    /// The first `limit` questions of `split` (default: the task's) in the folder `data_dir/<task>`. Without `data_dir` it is
    /// `data/<task>` where there is such a folder, and else the task's set on the Hugging Face Hub.
    ///
    /// # Errors
    /// The questions cannot be found or fetched, or a row does not have the task's columns.
    pub fn load(
        &'static self,
        data_dir: Option<&Path>,
        split: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Vec<Question>, DataError> {
        let split = Some(split.unwrap_or(self.split));
        let (set, mut rows) = match (folder_of(self.name, data_dir), self.hub) {
            (Some(folder), _) => (folder.display().to_string(), source::read(&folder, split)?),
            (None, Some(set)) => (set.path.to_owned(), set.read(split, &Hub::from_env())?),
            (None, None) => return Err(DataError::NoDataDir { task: self.name.to_owned() }),
        };
        rows.truncate(limit.unwrap_or(usize::MAX));
        self.questions(&set, &rows)
    }
}

/// The folder of a task where its questions are not those of the Hub.
pub(super) fn folder_of(task: &str, data_dir: Option<&Path>) -> Option<PathBuf> {
    match data_dir {
        Some(folder) => Some(folder.join(task)),
        None => Some(Path::new(DATA_DIR).join(task)).filter(|folder| folder.is_dir()),
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
