use std::io;
use std::path::{Path, PathBuf};

/// A file or folder that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be written ({source})", path.display())]
pub struct Error {
    /// The file or folder, by the name that it was to have.
    pub path: PathBuf,
    /// The system's message.
    pub source: io::Error,
}

impl Error {
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self { path: path.to_owned(), source }
    }
}
