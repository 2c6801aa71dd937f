use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::disk::{hidden, rename};
use crate::error::Error;

/// Writes a file, in place of an older one of this name.
///
/// # Errors
/// If it cannot be written. The older one is then as it was.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    fill(path, |file| file.write_all(contents.as_ref()))
}

/// Writes all that `contents` gives, in place of an older file of this name.
///
/// # Errors
/// If it cannot be read to its end or written. The older file is then as it was.
pub fn write_from(path: &Path, contents: &mut dyn Read) -> Result<(), Error> {
    fill(path, |file| io::copy(contents, file).map(drop))
}

/// Writes a new file.
///
/// # Errors
/// If there is something of this name, or it cannot be written.
pub fn create(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    if path.symlink_metadata().is_ok() {
        return Err(Error { path: path.to_owned(), source: io::ErrorKind::AlreadyExists.into() });
    }
    write(path, contents)
}

fn fill(path: &Path, contents: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let partial = hidden(path);
    let filled = File::create(&partial).and_then(|mut file| contents(&mut file).and_then(|()| file.sync_all()));
    filled.and_then(|()| rename(&partial, path)).map_err(|source| {
        let _ = fs::remove_file(&partial);
        Error { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is cut"))
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_older_file_is_replaced_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write(&path, "first").unwrap();
        write(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        let mut cut = "half".as_bytes().chain(Failing);
        let error = write_from(&path, &mut cut).unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("the line is cut"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        write_from(&path, &mut "third".as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/a.json");
        assert!(write(&path, "").unwrap_err().to_string().contains("none"));
        fs::create_dir(folder.path().join("b")).unwrap();
        assert!(write(&folder.path().join("b"), "").is_err());
        assert_eq!(names(folder.path()), ["b"]);
    }

    #[test]
    fn a_new_file_takes_no_name_that_something_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        create(&path, "mine").unwrap();
        assert_eq!(create(&path, "other").unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
