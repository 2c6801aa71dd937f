use serde::{Deserialize, Serialize};

/// How the model answered a prompt of the validation data while it trained: a line of `generated.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// The step after which it was asked.
    pub step: usize,
    /// Which of the prompts, from 0.
    pub prompt_index: usize,
    /// The prompt, as the model reads it.
    pub prompt: String,
    /// What it wrote.
    pub answer: String,
    /// What the data say.
    pub reference: String,
}
