//! Benchmark tasks as questions: what the model reads, the choices, and the right one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::tasks::TASKS;
use crate::data::{DataError, Format, Record, Source, source, tell_unread};
use crate::hub::Hub;

/// The folder that is looked for where none is given.
const DATA_DIR: &str = "data";

/// A benchmark: how its rows become questions.
#[derive(Debug)]
pub struct Task {
    /// Its name, as lm-evaluation-harness has it, which is also the name of its folder.
    pub name: &'static str,
    /// The split on which lm-evaluation-harness scores it.
    pub split: &'static str,
    /// The set on the Hugging Face Hub that lm-evaluation-harness reads; none, where the questions are one's own.
    pub hub: Option<Source<'static>>,
    /// Columns of the set that its questions do not need.
    pub unused: &'static [&'static str],
    /// Turns a row, in the columns of the set on the Hugging Face Hub, into a question.
    pub question: fn(&Record) -> Result<Question, DataError>,
}

/// A multiple-choice question. Each choice is scored as continuation of its context, with a space before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What stands before the choices: one text for all, or one for each.
    pub contexts: Vec<String>,
    /// The choices.
    pub choices: Vec<String>,
    /// The index of the right one.
    pub target: usize,
}

impl Question {
    /// A question whose choices continue one and the same context.
    ///
    /// # Errors
    /// `target` is not one of the choices.
    pub fn new<T: AsRef<str>>(
        record: &Record,
        context: String,
        choices: &[T],
        target: Option<usize>,
    ) -> Result<Self, DataError> {
        match target {
            Some(target) if target < choices.len() => Ok(Self {
                contexts: vec![context],
                choices: choices.iter().map(|choice| choice.as_ref().to_owned()).collect(),
                target,
            }),
            _ => {
                Err(record
                    .error(format!("the right answer is not one of the {} choices; correct the row", choices.len())))
            }
        }
    }

    /// The context of choice `index`.
    pub fn context(&self, index: usize) -> &str {
        self.contexts.get(index).or(self.contexts.first()).map_or("", String::as_str)
    }

    /// The context and the right choice, as training data.
    pub fn answered(&self) -> (&str, &str) {
        (self.context(self.target), &self.choices[self.target])
    }
}

impl Task {
    /// The task with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TASKS.iter().copied().find(|task| task.name == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ")
    }

    /// All tasks.
    pub fn all() -> &'static [&'static Self] {
        TASKS
    }

    /// The task with this name, or an error that lists the names there are.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str) -> Result<&'static Self, DataError> {
        Self::named(name).ok_or_else(|| DataError::UnknownTask { name: name.to_owned(), known: Self::names() })
    }

    /// The questions that `name` means: a task's, as [`load`](Self::load) reads them, or those of a jsonl, json, csv or
    /// parquet file, which are `multiple_choice`.
    ///
    /// # Errors
    /// There is no such task or file, or a row does not have the task's columns.
    pub fn open(
        name: &str,
        data_dir: Option<&Path>,
        split: Option<&str>,
        limit: Option<usize>,
    ) -> Result<(&'static Self, Vec<Question>), DataError> {
        let file = Path::new(name);
        if file.extension().is_some() {
            let task = Self::find("multiple_choice")?;
            let mut rows = source::read(file, split)?;
            rows.truncate(limit.unwrap_or(usize::MAX));
            return Ok((task, task.questions(name, &rows)?));
        }
        let task = Self::find(name)?;
        Ok((task, task.load(data_dir, split, limit)?))
    }

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
        let (set, mut rows) = match (self.folder(data_dir), self.hub) {
            (Some(folder), _) => (folder.display().to_string(), source::read(&folder, split)?),
            (None, Some(set)) => (set.path.to_owned(), set.read(split, &Hub::from_env())?),
            (None, None) => return Err(DataError::NoDataDir { task: self.name.to_owned() }),
        };
        rows.truncate(limit.unwrap_or(usize::MAX));
        self.questions(&set, &rows)
    }

    fn folder(&self, data_dir: Option<&Path>) -> Option<PathBuf> {
        match data_dir {
            Some(folder) => Some(folder.join(self.name)),
            None => Some(Path::new(DATA_DIR).join(self.name)).filter(|folder| folder.is_dir()),
        }
    }
}

/// A set of the Hub.
pub(super) const fn on_hub(id: &'static str, name: Option<&'static str>) -> Source<'static> {
    Source { path: id, name, revision: None }
}

/// The index that a number counted from 1 means.
pub(super) fn from_one(number: i64) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// The index of `key` in `labels`.
pub(super) fn position_of(labels: &[&str], key: &str) -> Option<usize> {
    labels.iter().position(|label| *label == key)
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
