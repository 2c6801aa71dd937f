//! OpenBookQA: school science that needs a fact and common knowledge (Mihaylov et al. 2018). The question has no frame.

use super::{Question, Record, Result, Task, on_hub, position_of};

pub(super) const TASK: Task = Task {
    name: "openbookqa",
    split: "test",
    hub: Some(on_hub("allenai/openbookqa", Some("main"))),
    unused: UNUSED,
    question,
};

const UNUSED: &[&str] = &["id"];

fn question(row: &Record) -> Result<Question> {
    let target = position_of(&row.texts("choices.label")?, row.text("answerKey")?.trim_start());
    Question::new(row, row.text("question_stem")?.to_owned(), &row.texts("choices.text")?, target)
}
