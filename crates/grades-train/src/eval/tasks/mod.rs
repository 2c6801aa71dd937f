//! One file a benchmark (both parts of ARC share theirs), one line here.

use super::task::{Question, Task, from_one, on_hub, position_of};
use crate::data::error::DataError;
use crate::data::record::Record;

mod arc;
mod boolq;
mod hellaswag;
mod multiple_choice;
mod openbookqa;
mod piqa;
mod social_i_qa;
mod winogrande;

const TASKS: &[&Task] = &[
    &arc::CHALLENGE,
    &arc::EASY,
    &boolq::TASK,
    &hellaswag::TASK,
    &multiple_choice::TASK,
    &openbookqa::TASK,
    &piqa::TASK,
    &social_i_qa::TASK,
    &winogrande::TASK,
];

type Result<T> = std::result::Result<T, DataError>;

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
    pub fn find(name: &str) -> Result<&'static Self> {
        Self::named(name).ok_or_else(|| DataError::UnknownTask { name: name.to_owned(), known: Self::names() })
    }
}
