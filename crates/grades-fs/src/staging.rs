use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{folder_of, hidden, hidden_prefix, is_hidden, rename, sync_files};
use crate::error::Error;

/// A folder that is filled under a hidden name beside its place, and disappears unless it is published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    target: PathBuf,
    /// Locked as long as this process lives, so that others know whether the folder was left behind. None where folders cannot be
    /// locked (Windows, some network file systems); what is left there stays.
    _lock: Option<File>,
}

impl Staging {
    /// An empty one for the folder `target`, whose parents are made where they are missing. What writers of `target` left behind that
    /// were killed is removed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn beside(target: &Path) -> Result<Self, Error> {
        remove_abandoned(target);
        fs::create_dir_all(folder_of(target)).map_err(Error::at(target))?;
        loop {
            let path = hidden(target);
            fs::create_dir(&path).map_err(Error::at(target))?;
            // Another process may take it for abandoned, and lock and remove it, before it is locked here.
            let lock = File::open(&path).ok().filter(|folder| folder.lock().is_ok());
            if path.exists() {
                return Ok(Self { path, target: target.to_owned(), _lock: lock });
            }
        }
    }

    /// Where its files are written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the folder appear with all its files.
    ///
    /// # Errors
    /// If there is something of its name, or the disk refuses.
    pub fn publish(self) -> Result<(), Error> {
        self.whole().map_err(Error::at(&self.target))
    }

    /// The same in place of an older folder of its name.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn replace(self) -> Result<(), Error> {
        let older = if self.target.exists() { fs::remove_dir_all(&self.target) } else { Ok(()) };
        older.and_then(|()| self.whole()).map_err(Error::at(&self.target))
    }

    /// Moves `files` into the folder, which is there already, in their order: whoever finds the last finds all.
    ///
    /// # Errors
    /// If there is something of one of the names, before any is moved; or the disk refuses.
    pub fn publish_into<F: AsRef<Path>>(self, files: &[F]) -> Result<(), Error> {
        let taken = files.iter().map(|file| self.target.join(file)).find(|path| path.symlink_metadata().is_ok());
        if let Some(path) = taken {
            return Err(Error { path, source: io::ErrorKind::AlreadyExists.into() });
        }
        sync_files(&self.path).map_err(Error::at(&self.target))?;
        for file in files {
            let target = self.target.join(file);
            rename(&self.path.join(file), &target).map_err(Error::at(&target))?;
        }
        Ok(())
    }

    fn whole(&self) -> io::Result<()> {
        if self.target.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        sync_files(&self.path)?;
        rename(&self.path, &self.target)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After publishing the whole folder there is nothing left to remove; a failure here leaves a hidden folder.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what writers of the folder `target` left beside it whose processes are no more. What cannot be removed stays: it is in nobody's
/// way.
fn remove_abandoned(target: &Path) {
    let prefix = hidden_prefix(target);
    let entries = fs::read_dir(folder_of(target)).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes())) {
        let Ok(folder) = File::open(entry.path()) else { continue };
        if folder.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes what was to lie in `folder`, of whatever name, and was cut short. Only for folders that no other process may be writing into
/// now.
///
/// # Errors
/// If they cannot be removed.
pub fn remove_leftovers_in(folder: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| is_hidden(&entry.file_name())) {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::at(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn staged(target: &Path, contents: &str) -> Staging {
        let staging = Staging::beside(target).unwrap();
        fs::write(staging.path().join("a"), contents).unwrap();
        fs::write(staging.path().join("b"), contents).unwrap();
        staging
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("of/model");
        drop(staged(&target, "never"));
        assert!(names(&parent.path().join("of")).is_empty());
        staged(&target, "first").publish().unwrap();
        assert_eq!(names(&target), ["a", "b"]);
        let error = staged(&target, "second").publish().unwrap_err();
        assert_eq!((error.path.as_path(), error.source.kind()), (target.as_path(), io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "first");
        staged(&target, "third").replace().unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "third");
        assert_eq!(names(&parent.path().join("of")), ["model"]);
    }

    #[test]
    fn files_move_into_a_folder_that_has_none_of_them() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("notes"), "mine").unwrap();
        staged(&target, "new").publish_into(&["a", "b"]).unwrap();
        assert_eq!(names(&target), ["a", "b", "notes"]);
        fs::remove_file(target.join("a")).unwrap();
        let error = staged(&target, "other").publish_into(&["a", "b"]).unwrap_err();
        assert_eq!(error.path, target.join("b"));
        assert_eq!(names(&target), ["b", "notes"]);
        assert_eq!(fs::read_to_string(target.join("b")).unwrap(), "new");
        assert_eq!(names(parent.path()), ["model"]);
    }

    #[test]
    #[cfg(unix)]
    fn a_killed_writer_leaves_nothing_for_the_next_and_a_living_one_keeps_its_own() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        for name in [".model.partial-7-0", ".models.partial-7-0"] {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join("a"), "half").unwrap();
        }
        let [first, second] = [(); 2].map(|()| Staging::beside(&target).unwrap());
        let name = |staging: &Staging| staging.path().file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected = [name(&first), name(&second), ".models.partial-7-0".to_owned()];
        expected.sort();
        assert_eq!(names(parent.path()), expected);
        drop((first, second));
        assert_eq!(names(parent.path()), [".models.partial-7-0"]);
    }

    #[test]
    fn what_was_cut_short_in_a_folder_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        for name in [".step-1.partial-7-0", ".step-2.partial-7-1"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        fs::write(parent.path().join(".a.json.partial-7-2"), "half").unwrap();
        fs::write(parent.path().join(".mine"), "whole").unwrap();
        let before = names(parent.path());
        remove_leftovers_in(parent.path()).unwrap();
        let left: Vec<_> = before.into_iter().filter(|name| !name.contains(".partial-")).collect();
        assert_eq!(names(parent.path()), left);
        assert!(left.contains(&".mine".to_owned()));
        remove_leftovers_in(&parent.path().join("none")).unwrap();
    }
}
