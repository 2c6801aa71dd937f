//! One process at a time in a folder.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Error;

/// A folder that other processes cannot lock. It is free again when this is dropped or the process ends, in whatever way.
#[derive(Debug)]
pub struct Lock {
    /// The folder, open: the lock is on it.
    _folder: Option<File>,
}

/// Locks a folder, which stays as it is; `None` if another process, or another [`Lock`] of this one, has it. Where the
/// system or the file system knows no locks of folders, everybody gets one.
///
/// # Errors
/// If the folder cannot be opened.
#[cfg(unix)]
pub fn lock(folder: &Path) -> Result<Option<Lock>, Error> {
    let file = File::open(folder).map_err(Error::at(folder))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _folder: Some(file) })),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(std::fs::TryLockError::Error(_)) => Ok(Some(Lock { _folder: None })),
    }
}

/// Here folders cannot be locked.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn lock(_: &Path) -> Result<Option<Lock>, Error> {
    Ok(Some(Lock { _folder: None }))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_lock_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        assert!(first.is_some());
        assert!(lock(folder.path()).unwrap().is_none());
        drop(first);
        assert!(lock(folder.path()).unwrap().is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(lock(&folder.path().join("none")).is_err());
    }
}
