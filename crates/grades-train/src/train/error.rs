//! What can go wrong in a training run.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong in a training run; each message is one sentence that names the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// There is something in the run's directory.
    #[error("{}: there is already a run in this directory; choose another output_dir, or set resume_from_checkpoint", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// A file or folder could not be written whole.
    #[error(transparent)]
    File(#[from] grades_fs::Error),
    /// The loss is NaN or infinite.
    #[error(
        "the loss of step {step} is {loss}, so training cannot go on; lower learning_rate, or set max_grad_norm, and check \
         the samples of this step: {samples}"
    )]
    Loss {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f64,
        /// The indices of the step's samples.
        samples: String,
    },
    /// The run needs more memory than there is.
    #[error(
        "the run needs about {:.1} GB of memory, of which {:.1} GB are free; {way_out} (grades train --dry-run shows what takes \
         how much)",
        *needed as f64 / 1e9,
        *available as f64 / 1e9
    )]
    Memory {
        /// What it needs, in bytes.
        needed: u64,
        /// What there is.
        available: u64,
        /// What to change.
        way_out: &'static str,
    },
    /// The data.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] grades_models::Error),
    /// The checkpoint's files.
    #[error(transparent)]
    Weights(#[from] grades_models::weights::WeightsError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] grades_models::tokenizer::TokenizerError),
    /// The options of early stopping.
    #[error("early_stopping: {0}")]
    EarlyStopping(#[from] grades::ConfigError),
    /// A checkpoint's decisions do not fit the run.
    #[error(transparent)]
    Restore(#[from] grades::RestoreError),
    /// The report of a run whose model and summary are saved.
    #[error("the run is complete, but its report cannot be written: {0}")]
    Report(#[from] grades_report::ReportError),
    /// Anything else, as one sentence.
    #[error("{0}")]
    Other(String),
}

impl TrainError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}
