//! Training: one loop ([`trainer`]), with what it needs around it.

pub mod average;
mod checkpoint;
mod dry_run;
mod error;
pub mod freeze;
mod ledger;
pub mod memory;
mod model_source;
mod model_vision;
pub mod optimizer;
pub mod optimizer_state;
mod options;
pub mod plan;
pub mod prefix_cache;
mod prepared;
mod reading;
pub mod rule;
mod run;
pub mod run_dir;
mod state;
pub(crate) mod step;
mod trackers;
pub mod trainer;
pub mod vision_cache;

pub use checkpoint::resume;
pub use dry_run::{DryRun, dry_run};
pub use error::TrainError;
pub use ledger::Ledger;
pub use options::TrainOptions;
pub use prepared::common_steps;
pub use reading::Reader;
pub use run::run;
pub use run_dir::RunDir;
pub use state::TrainState;
pub use trainer::{Outcome, Trained, Trainer};
