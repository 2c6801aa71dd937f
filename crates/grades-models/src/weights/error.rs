//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

use super::Dtype;

/// Result of reading or writing a checkpoint.
pub type Result<T, E = WeightsError> = std::result::Result<T, E>;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: "read", "create", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder cannot be written whole.
    #[error(transparent)]
    File(#[from] grades_fs::Error),
    /// The path holds nothing that is known as a checkpoint.
    #[error("{} is not a checkpoint: {problem}", path.display())]
    NotACheckpoint {
        /// What was to be opened.
        path: PathBuf,
        /// What was missing, and what would do.
        problem: String,
    },
    /// The file contradicts its format.
    #[error("{} is damaged or not in its format: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The contradiction, with the tensor or key.
        problem: String,
    },
    /// The file is sound but uses something that is not supported here.
    #[error("{} is not supported: {problem}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and the way out.
        problem: String,
    },
    /// The values of a tensor to be saved could not be had.
    #[error("the model cannot be saved: {0}")]
    Values(String),
    /// A tensor was asked for that the checkpoint does not have.
    #[error(
        "{} has no tensor {name}: the checkpoint is incomplete or of another architecture than its config says",
        path.display()
    )]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's Hugging Face name.
        name: String,
    },
    /// A tensor holds something other than floating-point weights.
    #[error("{}: tensor {name} is stored as {dtype}, which holds no floating-point weights to load", path.display())]
    NotFloat {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's Hugging Face name.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
    /// There is not enough memory for one tensor.
    #[error("not enough memory for the {bytes} bytes of tensor {name}; close other programs or use a smaller model")]
    OutOfMemory {
        /// The tensor's name.
        name: String,
        /// The size asked for.
        bytes: u64,
    },
    /// Saving would replace something.
    #[error("{} already exists and is never overwritten; choose another folder or move it away", path.display())]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// A tensor to save does not have the size its shape says.
    #[error("tensor {name} to be saved has {values} values, but its shape {shape:?} asks for {expected}")]
    WrongSize {
        /// The tensor's name.
        name: String,
        /// The declared shape.
        shape: Vec<usize>,
        /// The product of the shape.
        expected: usize,
        /// The number of values given.
        values: usize,
    },
    /// Two tensors to save have one name.
    #[error("tensor {name} is to be saved twice; each name may occur once in a checkpoint")]
    SavedTwice {
        /// The repeated name.
        name: String,
    },
}

impl WeightsError {
    /// Wraps an operating system error; `action` is a verb.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The file at `path` contradicts its format.
    pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), problem: problem.into() }
    }

    /// The file at `path` needs something that does not exist here.
    pub(crate) fn unsupported(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), problem: problem.into() }
    }
}
