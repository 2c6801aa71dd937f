//! Positioned reads from one file of a checkpoint.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::{Result, WeightsError};

/// An open file whose parts can be read from several threads at once.
///
/// Reads instead of a memory map: a map needs unsafe code (another process may cut the file short under it), and
/// each tensor is read once.
#[derive(Debug)]
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    file: File,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(WeightsError::io("open", path))?;
        let metadata = file.metadata().map_err(WeightsError::io("read", path))?;
        if !metadata.is_file() {
            return Err(WeightsError::NotACheckpoint {
                path: path.to_owned(),
                problem: "it is not a regular file".into(),
            });
        }
        Ok(Self { path: path.to_owned(), len: metadata.len(), file })
    }

    /// Fills `buffer` from the bytes at `offset`.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, offset, buffer).map_err(WeightsError::io("read", &self.path))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
