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
    /// Another process trains in the run's directory.
    #[error("{}: another process trains in this directory now; wait until it has ended, or choose another output_dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A signal asked for the end, and there is a checkpoint.
    #[error(
        "interrupted after step {step}; the same call with resume_from_checkpoint=auto goes on from {}",
        checkpoint.display()
    )]
    Interrupted {
        /// The signal's number.
        signal: i32,
        /// The last step that was made.
        step: usize,
        /// Where the run goes on from.
        checkpoint: PathBuf,
    },
    /// A checkpoint's files are not those that were written.
    #[error("{}: the checkpoint is damaged, as {damage}; resume_from_checkpoint: auto takes the last one that is whole", path.display())]
    Damaged {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        damage: grades_fs::Damage,
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
    /// The loss, or the norm of the gradients, is NaN or infinite.
    #[error(
        "the {} of step {step} is {value}, so training cannot go on; lower learning_rate, or set max_grad_norm, or pass over \
         such steps with on_nonfinite: skip, and check the samples of this step: {samples}{}",
        found.name(),
        checkpoint.as_ref().map_or(String::new(), |path| format!("; the last checkpoint is {}", path.display()))
    )]
    Nonfinite {
        /// The step, from 1.
        step: usize,
        /// Which of the two.
        found: Nonfinite,
        /// The number.
        value: f64,
        /// The indices of the step's samples.
        samples: String,
        /// The last whole checkpoint of the run.
        checkpoint: Option<PathBuf>,
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
    /// The run writes more than the disk holds.
    #[error(
        "{}: the run writes about {:.2} GB, and {:.2} GB are free on this disk; {way_out}choose another output_dir",
        path.display(),
        *needed as f64 / 1e9,
        *available as f64 / 1e9
    )]
    Disk {
        /// The run's directory.
        path: PathBuf,
        /// What it writes, in bytes.
        needed: u64,
        /// What is free.
        available: u64,
        /// What to change beside the directory.
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

/// A number of a step that should be finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonfinite {
    /// The mean loss per predicted token.
    Loss,
    /// The global norm of the gradients.
    GradientNorm,
}

impl Nonfinite {
    /// Its name in a sentence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::GradientNorm => "norm of the gradients",
        }
    }
}

impl TrainError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}
