//! BoolQ: yes or no, after a passage (Clark et al. 2019). The set's own files have `answer`, SuperGLUE's `label`.

use super::{Question, Record, Result, Task, on_hub};

pub(super) const TASK: Task = Task {
    name: "boolq",
    split: "validation",
    hub: Some(on_hub("aps/super_glue", Some("boolq"))),
    unused: UNUSED,
    question,
};

const UNUSED: &[&str] = &["idx"];

fn question(row: &Record) -> Result<Question> {
    let context = format!("{}\nQuestion: {}?\nAnswer:", row.text("passage")?, row.text("question")?);
    let target = if row.has("label") { row.integer("label")? } else { row.boolean("answer")?.into() };
    Question::new(row, context, &["no", "yes"], target.try_into().ok())
}
