//! What a name of a task means: a benchmark, or a file of questions of one's own.

use std::path::Path;

use super::open::{OpenQuestion, OpenTask, Where, is_own};
use super::task::{Question, Task};
use crate::data::error::DataError;
use crate::data::source;

/// Questions with their task.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Choices, of which the likeliest counts.
    Choices(&'static Task, Vec<Question>),
    /// Answers that are written out.
    Open(&'static OpenTask, Vec<OpenQuestion>),
}

impl Asked {
    /// What its questions are called where those of several tasks stand together; `asked` is what [`find`](Self::find) found them by:
    /// the name of the benchmark, or of the file without its ending.
    #[must_use]
    pub fn name(&self, asked: &str) -> String {
        let file = Path::new(asked);
        match (file.extension(), file.file_stem(), self) {
            (Some(_), Some(stem), _) => stem.to_string_lossy().into_owned(),
            (_, _, Self::Choices(task, _)) => task.name.to_owned(),
            (_, _, Self::Open(task, _)) => task.name.to_owned(),
        }
    }

    /// The questions that `name` means: a task's, or those of a jsonl, json, csv or parquet file, which are `multiple_choice`
    /// where they have `choices`, and else written out.
    ///
    /// # Errors
    /// There is no such task or file, or a row does not have the task's columns.
    pub fn find(name: &str, at: &Where<'_>) -> Result<Self, DataError> {
        let file = Path::new(name);
        if file.extension().is_some() {
            let mut rows = source::read(file, at.split)?;
            rows.truncate(at.limit.unwrap_or(usize::MAX));
            if rows.first().is_some_and(is_own) {
                let (task, questions) = OpenTask::of_rows(name, &rows, at)?;
                return Ok(Self::Open(task, questions));
            }
            let task = Task::find("multiple_choice")?;
            return Ok(Self::Choices(task, task.questions(name, &rows)?));
        }
        match (Task::named(name), OpenTask::named(name)) {
            (Some(task), _) => Ok(Self::Choices(task, task.load(at.data_dir, at.split, at.limit)?)),
            (None, Some(task)) => Ok(Self::Open(task, task.load(at)?)),
            (None, None) => {
                let known = format!("{}, {}", Task::names(), OpenTask::names());
                Err(DataError::UnknownTask { name: name.to_owned(), known })
            }
        }
    }
}
