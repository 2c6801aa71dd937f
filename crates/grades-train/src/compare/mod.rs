//! Methods beside one another on one model and data: which runs, making those that are missing, what they show.
//!
//! ```text
//! Plan::new(variants, options)          every mistake in the config, the names or the data shows here
//!     .run(work, log)                   trains and scores what is not there yet
//!         → Comparison                  rows, paired tests, failures
//!             .write(folder)            compare.md, .csv, .json, .html
//! ```
//!
//! The caller does the work: it gets a [`Job`] and reports its success. It does each in a process of its own, so that each run
//! has its own peak of memory, and one that fails takes no other with it.

mod adapter;
mod contender;
mod control;
mod error;
mod excess;
mod figures;
mod finished;
mod folder;
mod frontier;
mod job;
mod make;
mod options;
mod outcome;
mod page;
mod plan;
mod planned_run;
mod questions;
mod results;
mod sweep;
mod tables;

pub use error::CompareError;
pub use finished::Finished;
pub use folder::Folder;
pub use frontier::{Excess, Frontier, FrontierOptions, Point};
pub use job::{Job, ScoredModel, Worker};
pub use options::RunOptions;
pub use outcome::{Comparison, Failure, Row, Test};
pub use plan::{CompareOptions, Plan};
pub use planned_run::PlannedRun;
pub use questions::{Answers, Given, Metric, Questions};
pub use sweep::{Grid, Sweep, SweepOptions};

#[cfg(test)]
mod tests;
