use serde::{Deserialize, Serialize};

/// How one question of a benchmark was answered: a line of `grades eval --samples`, and of `eval/<task>.jsonl` in the
/// runs of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The task's name.
    pub task: String,
    /// The question's row, counted from 0.
    pub index: usize,
    /// The log-likelihood of each choice, summed over its tokens; none where they were not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loglikelihoods: Vec<f64>,
    /// The index of the right choice.
    pub target: usize,
    /// 1 if the likeliest choice is the right one, else 0.
    pub acc: u8,
    /// 1 if the likeliest choice by character is the right one, else 0.
    pub acc_norm: u8,
}
