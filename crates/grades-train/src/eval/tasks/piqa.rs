//! PIQA: how to reach a goal in the physical world (Bisk et al. 2020).

use super::{Question, Record, Result, Task, on_hub};

pub(super) const TASK: Task =
    Task { name: "piqa", split: "validation", hub: Some(on_hub("baber/piqa", None)), unused: UNUSED, question };

const UNUSED: &[&str] = &["id"];

fn question(row: &Record) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", row.text("goal")?);
    let choices = [row.text("sol1")?, row.text("sol2")?];
    Question::new(row, context, &choices, row.integer("label")?.try_into().ok())
}
