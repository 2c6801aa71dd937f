//! The checkpoints of a run: written beside the training, counted, and found again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use grades_fs::Staging;

use super::checkpoint::{FOLDER, STATE, Snapshot, folder, name};
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
    /// name, so that they are never behind it. The one after the step `best` stays, whatever the limit.
    ///
    /// # Errors
    /// If the one before could not be written, or this one where it is written at once: where memory would not do for a copy
    /// of what changes meanwhile.
    pub(super) fn write(
        &mut self,
        snapshot: Snapshot,
        best: Option<usize>,
        synced: Vec<File>,
    ) -> Result<(), TrainError> {
        let before = self.wait();
        let copy = snapshot.bytes();
        let (run, limit, step) = (self.run.clone(), self.limit, snapshot.step());
        let write = move || -> Result<(), TrainError> {
            for file in synced {
                // A file system that keeps names by other means may refuse; the log is then as safe as it can be.
                let _ = file.sync_data();
            }
            snapshot.write(&run)?;
            limit.map_or(Ok(()), |limit| prune(&run, limit, step, best))
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

    /// Writes the model alone, by `save`, as the checkpoint after `step`.
    ///
    /// # Errors
    /// If the one before could not be written, or this one.
    pub(super) fn write_model(
        &mut self,
        step: usize,
        best: Option<usize>,
        save: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.wait()?;
        let staging = Staging::beside(&folder(&self.run, step))?;
        save(staging.path())?;
        grades_fs::seal(staging.path())?;
        staging.replace()?;
        self.limit.map_or(Ok(()), |limit| prune(&self.run, limit, step, best))
    }

    /// Whether what was being written has failed, as far as that is known without waiting.
    ///
    /// # Errors
    /// If so.
    pub(super) fn poll(&mut self) -> Result<(), TrainError> {
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) { self.wait() } else { Ok(()) }
    }

    /// Whether one is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
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
    let Ok(entries) = fs::read_dir(run.join(FOLDER)) else { return Vec::new() };
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
        // A model alone, as `save_only_model` writes it.
        Ok(()) if !folder.join(STATE).is_file() => false,
        Ok(()) => true,
        Err(damage) => {
            log::warn!("{}: this checkpoint is passed over, as {damage}", folder.display());
            false
        }
    })
}

/// The whole checkpoint after `step` beside another one, of the same run.
///
/// # Errors
/// If it is not there, or damaged.
pub(super) fn beside(checkpoint: &Path, step: usize) -> Result<PathBuf, TrainError> {
    let path = checkpoint.with_file_name(name(step));
    match grades_fs::verify(&path) {
        Ok(()) => Ok(path),
        Err(damage) => Err(TrainError::Damaged { path, damage }),
    }
}

/// Copies a checkpoint of another run into the directory `run`.
///
/// # Errors
/// If it cannot be copied.
pub(super) fn adopt(checkpoint: &Path, run: &Path) -> Result<(), TrainError> {
    let at = |error| TrainError::io(checkpoint, error);
    let target = run.join(FOLDER).join(checkpoint.file_name().unwrap_or_default());
    let staging = Staging::beside(&target)?;
    for entry in fs::read_dir(checkpoint).map_err(at)? {
        let entry = entry.map_err(at)?;
        fs::copy(entry.path(), staging.path().join(entry.file_name())).map_err(at)?;
    }
    Ok(staging.replace()?)
}

/// Removes the checkpoints after `step`.
///
/// # Errors
/// If one cannot be removed.
pub(super) fn remove_after(run: &Path, step: usize) -> Result<(), TrainError> {
    for later in steps(run).into_iter().filter(|later| *later > step) {
        let folder = folder(run, later);
        fs::remove_dir_all(&folder).map_err(|source| TrainError::io(&folder, source))?;
    }
    Ok(())
}

/// Removes the oldest checkpoints up to the one after `newest`, so that `limit` remain; but that one and the `best` stay always, as
/// in transformers.
fn prune(run: &Path, limit: usize, newest: usize, best: Option<usize>) -> Result<(), TrainError> {
    let all = steps(run).into_iter().filter(|step| *step <= newest);
    let (stay, others): (Vec<_>, Vec<_>) = all.partition(|step| *step == newest || Some(*step) == best);
    for step in others.into_iter().skip(limit.saturating_sub(stay.len())) {
        let folder = folder(run, step);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(TrainError::io(&folder, error)),
            _ => {}
        }
    }
    Ok(())
}
