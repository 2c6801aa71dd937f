//! Scores of answers that a model writes out, for questions about pictures: each as the benchmark's own program gives it.

pub mod captions;
pub mod gqa;
pub mod mmstar;
pub mod vqa;

#[cfg(test)]
mod tests;
