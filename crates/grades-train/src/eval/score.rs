//! x
/// x
pub trait LogLikelihood {}
/// x
pub struct QuestionScore;
/// x
pub struct TaskScore;
