//! ARC: science questions of school tests (Clark et al. 2018), in an easy and a hard part.

use super::{Question, Record, Result, Task, on_hub, position_of};

pub(super) const EASY: Task = Task {
    name: "arc_easy",
    split: "test",
    hub: Some(on_hub("allenai/ai2_arc", Some("ARC-Easy"))),
    unused: UNUSED,
    question,
};
pub(super) const CHALLENGE: Task = Task {
    name: "arc_challenge",
    split: "test",
    hub: Some(on_hub("allenai/ai2_arc", Some("ARC-Challenge"))),
    unused: UNUSED,
    question,
};

const UNUSED: &[&str] = &["id"];

fn question(row: &Record) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", row.text("question")?);
    let target = position_of(&row.texts("choices.label")?, row.text("answerKey")?);
    Question::new(row, context, &row.texts("choices.text")?, target)
}
