//! WinoGrande: whom a gap means (Sakaguchi et al. 2020). Scored partially: the text up to the gap with each option in
//! it is a context, and what follows the gap is the continuation of both.

use super::{Question, Record, Result, Task, from_one, on_hub};

pub(super) const TASK: Task = Task {
    name: "winogrande",
    split: "validation",
    hub: Some(on_hub("allenai/winogrande", Some("winogrande_xl"))),
    unused: UNUSED,
    question,
};

const UNUSED: &[&str] = &["qID"];

fn question(row: &Record) -> Result<Question> {
    let sentence = row.text("sentence")?;
    let Some((before, after)) = sentence.split_once('_') else {
        return Err(row.error("column `sentence` has no gap `_`; correct the row"));
    };
    let contexts = ["option1", "option2"].map(|option| row.text(option).map(|option| format!("{before}{option}")));
    let question = Question::new(row, String::new(), &[after.trim(); 2], from_one(row.integer("answer")?))?;
    Ok(Question { contexts: contexts.into_iter().collect::<Result<_>>()?, ..question })
}
