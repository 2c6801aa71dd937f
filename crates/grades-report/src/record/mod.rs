//! What the files of a run's directory hold. Who writes them and who reads them has one type for each, so that they cannot
//! part. Every field that another program may not know is optional, or 0 where it is left out.

mod answer;
mod environment;
mod event;
mod generated;
mod names;
mod rewards;
mod shown_sample;
mod signals;
mod step;
mod summary;
mod task_scores;
mod units;
mod written_answer;

pub use answer::Answer;
pub use environment::Environment;
pub use event::{Event, RunEvent};
pub use generated::Generated;
pub use names::{CONFIG, ENVIRONMENT, EVENTS, GENERATED, METRICS, SAMPLES, SIGNALS, SUMMARY, TRACE, UNITS};
pub use rewards::{AnswerLogps, Rewards};
pub use shown_sample::{Piece, ShownSample};
pub use signals::Signals;
pub use step::{Step, StepFlops};
pub use summary::Summary;
pub use task_scores::{TaskScores, main_score};
pub use units::{UnitThreshold, Units};
pub use written_answer::WrittenAnswer;

#[cfg(test)]
mod tests;
