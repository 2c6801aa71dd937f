//! Social IQa: what people do, want and feel (Sap et al. 2019).

use super::{Question, Record, Result, Task, from_one, on_hub};

pub(super) const TASK: Task = Task {
    name: "social_i_qa",
    split: "validation",
    hub: Some(on_hub("lighteval/siqa", None)),
    unused: UNUSED,
    question,
};

const UNUSED: &[&str] = &["id"];

fn question(row: &Record) -> Result<Question> {
    let context = format!("Q: {} {}\nA:", row.text("context")?, row.text("question")?);
    let choices = [row.text("answerA")?, row.text("answerB")?, row.text("answerC")?];
    Question::new(row, context, &choices, from_one(row.integer("label")?))
}
