//! The checkpoints of a run: written beside the training, counted, and found again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use super::checkpoint::{Snapshot, folder};
use super::error::TrainError;
use super::memory;

/// The checkpoints of a run directory. A thread of its own writes each, one at a time, while the steps go on.
#[derive(Debug)]
pub(super) struct Checkpoints {
    run: PathBuf,
    /// How many stay; the oldest go first.
    limit: Option<usize>,
    writing: Option<JoinHandle<Result<(), TrainError>>>,
}

impl Checkpoints {
    pub(super) fn new(run: &Path, limit: Option<usize>) -> Self {
        Self { run: run.to_owned(), limit, writing: None }
    }

    /// Begins to write one, after the one that is still being written. The logs `synced` reach the disk before it gets its
    /// name, so that they are never behind it.
    ///
    /// # Errors
    /// If the one before could not be written, or this one where it is written at once: where memory would not do for a copy
    /// of what changes meanwhile.
    pub(super) fn write(&mut self, snapshot: Snapshot, synced: Vec<File>) -> Result<(), TrainError> {
        let before = self.wait();
        let copy = snapshot.bytes();
        let (run, limit, step) = (self.run.clone(), self.limit, snapshot.step());
        let write = move || -> Result<(), TrainError> {
            for file in synced {
                // A file system that keeps names by other means may refuse; the log is then as safe as it can be.
                let _ = file.sync_data();
            }
            snapshot.write(&run)?;
            limit.map_or(Ok(()), |limit| prune(&run, limit, step))
        };
        // Twice, as it is better to wait than to be killed.
        if memory::available().is_some_and(|available| available < 2 * copy) {
            return before.and(write());
        }
        match thread::Builder::new().name("checkpoint".to_owned()).spawn(write) {
            Ok(writing) => self.writing = Some(writing),
            Err(error) => return before.and(Err(TrainError::io(&self.run, error))),
        }
        before
    }

    /// Whether what was being written has failed, as far as that is known without waiting.
    ///
    /// # Errors
    /// If so.
    pub(super) fn poll(&mut self) -> Result<(), TrainError> {
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) { self.wait() } else { Ok(()) }
    }

    /// Waits for what is being written.
    ///
    /// # Errors
    /// If it could not be written. Those before it are as they were.
    pub(super) fn wait(&mut self) -> Result<(), TrainError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        writing
            .join()
            .unwrap_or_else(|_| Err(TrainError::Other("the thread that writes checkpoints has failed".into())))
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

/// The steps of the checkpoints of a run directory, the latest first.
fn steps(run: &Path) -> Vec<usize> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let step = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok();
    let mut steps: Vec<usize> = entries.flatten().filter_map(step).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    steps
}

/// The latest checkpoint of a run directory, up to the step `most`, whose files are those that were written. A warning tells of
/// each later one that is damaged.
pub fn latest(run: &Path, most: usize) -> Option<PathBuf> {
    let mut folders = steps(run).into_iter().filter(|step| *step <= most).map(|step| folder(run, step));
    folders.find(|folder| match grades_fs::verify(folder) {
        Ok(()) => true,
        Err(damage) => {
            log::warn!("{}: this checkpoint is passed over, as {damage}", folder.display());
            false
        }
    })
}

/// Removes the oldest checkpoints up to the one after `newest`, so that `limit` remain.
fn prune(run: &Path, limit: usize, newest: usize) -> Result<(), TrainError> {
    for step in steps(run).into_iter().filter(|step| *step <= newest).skip(limit) {
        let folder = folder(run, step);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(TrainError::io(&folder, error)),
            _ => {}
        }
    }
    Ok(())
}
