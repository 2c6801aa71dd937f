//! Benchmarks: choices by log-likelihood, with the conventions of lm-evaluation-harness 0.4, and answers that are written out,
//! with those of lmms-eval.

mod asked;
mod model;
pub mod open;
mod questions;
mod request;
pub mod score;
pub mod scorers;
pub mod task;
mod tasks;

/// Tokens of an evaluation batch: enough for the matrix products to run at full speed.
pub const BATCH_TOKENS: usize = 2048;

/// Answers that are written at once: enough for the matrix products, few enough that most end together.
pub const BATCH_PROMPTS: usize = 32;

pub use asked::Asked;
pub use request::{Batch, Choice};
pub use score::{LogLikelihood, ScoreError, ScoreOptions, TaskScore, score};
pub use task::{Question, Task};
