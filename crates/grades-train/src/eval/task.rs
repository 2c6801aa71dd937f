//! Benchmark tasks as questions: what the model reads, the choices, and the right one.

use crate::data::error::DataError;
use crate::data::record::Record;
use crate::data::source::Source;

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
