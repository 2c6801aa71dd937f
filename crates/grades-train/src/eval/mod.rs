//! Multiple-choice benchmarks by log-likelihood, with the conventions of lm-evaluation-harness 0.4.

mod model;
mod questions;
mod request;
pub mod score;
pub mod scorers;
pub mod task;
mod tasks;

pub use request::{Batch, Choice};
pub use score::{LogLikelihood, ScoreError, ScoreOptions, TaskScore, score};
pub use task::{Question, Task};
