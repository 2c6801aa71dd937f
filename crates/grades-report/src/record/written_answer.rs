use serde::{Deserialize, Serialize};

/// What a model wrote to one question of a benchmark: a line of `grades eval --samples`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrittenAnswer {
    /// The task's name.
    pub task: String,
    /// The question's row, counted from 0.
    pub index: usize,
    /// The question.
    pub question: String,
    /// What the model wrote.
    pub answer: String,
    /// What it might have written, or what people wrote.
    pub answers: Vec<String>,
    /// The score of the answer; of a caption its CIDEr.
    pub score: f64,
}
