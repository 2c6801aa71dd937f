//! Social IQa: what people do, want and feel (Sap et al. 2019).

use super::{Question, Record, Result, Task, from_one};

pub(super) const TASK: Task = Task { name: "social_i_qa", split: "validation", question };

fn question(row: &Record) -> Result<Question> {
    let context = format!("Q: {} {}\nA:", row.text("context")?, row.text("question")?);
    let choices = [row.text("answerA")?, row.text("answerB")?, row.text("answerC")?];
    Question::new(row, context, &choices, from_one(row.integer("label")?))
}
