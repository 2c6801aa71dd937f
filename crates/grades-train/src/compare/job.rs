use std::fmt;
use std::path::PathBuf;

use crate::config::{ImageBackend, Precision};

/// A piece of work that a comparison wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Trains a run.
    Train {
        /// The run.
        name: String,
        /// Its config.
        config: PathBuf,
        /// Its directory, in place of the config's.
        output_dir: PathBuf,
        /// The checkpoint that it goes on from.
        resume_from: Option<PathBuf>,
    },
    /// Lets a model answer the questions of some benchmarks.
    Eval {
        /// What is scored, for the log.
        name: String,
        /// The model.
        model: ScoredModel,
        /// The benchmarks.
        tasks: Vec<String>,
        /// The folder that holds a folder for each; left out, as [`crate::eval::Task::load`] looks for them.
        data_dir: Option<PathBuf>,
        /// The folder of pictures that rows give by path.
        image_folder: Option<PathBuf>,
        /// Only the first so many questions of each.
        limit: Option<usize>,
        /// The file that the answers go to: a [`Given`](super::Given) a line, task by task.
        samples: PathBuf,
    },
}

/// Does a job and waits for its end; the error is one sentence.
pub type Worker<'a> = dyn FnMut(&Job) -> Result<(), String> + 'a;

/// A model that is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoredModel {
    /// A folder or a GGUF file.
    pub model: PathBuf,
    /// An adapter for it.
    pub adapter: Option<PathBuf>,
    /// Whether its matrices are held in 4 bits, beside which the adapter was trained.
    pub load_in_4bit: bool,
    /// Whose resize pictures go through.
    pub image_backend: ImageBackend,
    /// The dtype of the matrix products.
    pub precision: Precision,
}

impl fmt::Display for Job {
    /// What it does, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Train { name, resume_from: None, .. } => write!(f, "{name}: training"),
            Self::Train { name, resume_from: Some(checkpoint), .. } => {
                write!(f, "{name}: training from {}", checkpoint.display())
            }
            Self::Eval { name, tasks, .. } => write!(f, "{name}: scoring {}", tasks.join(", ")),
        }
    }
}
