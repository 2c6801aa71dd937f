use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::data::DataError;

/// What can go wrong with a comparison as a whole; each message names the file, and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The folder holds something else.
    #[error("{}: this folder holds something that is no comparison; give a new one", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A run of the same name was made with other options.
    #[error("{}: this run was made with {key}: {was}, but now it would be {now}; give another folder, or remove this run and its \
             file in configs/", path.display())]
    OtherConfig {
        /// The run.
        path: PathBuf,
        /// The first option that differs.
        key: String,
        /// Its value then.
        was: String,
        /// Its value now.
        now: String,
    },
    /// Stored answers do not fit the questions.
    #[error(
        "{}: these answers are to other questions than those of the data folder now; remove the file, or give the data that \
         they were made with", path.display()
    )]
    OtherQuestions {
        /// The answers.
        path: PathBuf,
    },
    /// A file or folder cannot be written whole.
    #[error(transparent)]
    File(#[from] grades_fs::Error),
    /// A file cannot be read, or a folder not made.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: the file is damaged ({problem}); remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A name that nothing has.
    #[error("{0}")]
    Unknown(String),
    /// A run or an evaluation that failed.
    #[error("{name}: {message}")]
    Failed {
        /// The run.
        name: String,
        /// Why.
        message: String,
    },
    /// A frontier without a loss to draw.
    #[error("--frontier compares validation losses: set `val_set_size` in the config")]
    NoValidation,
    /// A grid of rates around none.
    #[error("--frontier tries multiples of the learning rate: set `learning_rate` in the config to a number")]
    NoRate,
    /// The config of a run.
    #[error("{name}: {source}")]
    Config {
        /// The run.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The config that all share.
    #[error(transparent)]
    Common(#[from] ConfigError),
    /// The questions.
    #[error(transparent)]
    Data(#[from] DataError),
    /// What a run would be cannot be told.
    #[error(transparent)]
    Train(#[from] crate::train::TrainError),
    /// The page.
    #[error(transparent)]
    Report(#[from] grades_report::ReportError),
}

impl CompareError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
