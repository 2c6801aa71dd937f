//! One's own questions: `question`, `choices`, and in `answer` the right choice or its place, counted from 0.

use super::{Question, Record, Result, Task};

pub(super) const TASK: Task = Task { name: "multiple_choice", split: "test", hub: None, unused: UNUSED, question };

const UNUSED: &[&str] = &["id"];

fn question(row: &Record) -> Result<Question> {
    let choices = row.texts("choices")?;
    let named = row.text("answer").ok().and_then(|answer| choices.iter().position(|choice| *choice == answer));
    let target = match (named, row.integer("answer")) {
        (Some(target), _) => Some(target),
        (None, Ok(place)) => place.try_into().ok(),
        (None, Err(_)) if row.text("answer").is_ok() => None,
        (None, Err(error)) => return Err(error),
    };
    Question::new(row, format!("Question: {}\nAnswer:", row.text("question")?), &choices, target)
}
