//! Whether the files of a folder are those that were written.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;
use crate::file::create;

/// The name of the list: a line a file, `CRC-32 in hexadecimal, bytes, name`.
const LIST: &str = "checksums.txt";

/// What is wrong with a folder's files.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damage(String);

/// Lists the files of a folder with their lengths and CRC-32 sums in its `checksums.txt`, as the last file that it gets.
///
/// # Errors
/// If a file cannot be read, or the list cannot be written.
pub fn seal(folder: &Path) -> Result<(), Error> {
    seal_with(folder, &[])
}

/// The same where the sums of some files are known by their name, so that these are not read again.
///
/// # Errors
/// As [`seal`].
pub fn seal_with(folder: &Path, known: &[(String, Sum)]) -> Result<(), Error> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>())
        .map_err(Error::at(folder))?;
    names.sort();
    let mut list = String::new();
    for name in names {
        let path = folder.join(&name);
        let Sum { crc, bytes } = match known.iter().find(|(known, _)| name == known.as_str()) {
            Some((_, sum)) => *sum,
            None => Sum::of(&path).map_err(Error::at(&path))?,
        };
        let _ = writeln!(list, "{crc:08x} {bytes} {}", name.to_string_lossy());
    }
    create(&folder.join(LIST), list)
}

/// Compares the files of a folder with the list that [`seal`] wrote.
///
/// # Errors
/// With the first file that is missing or other than it was written; or if there is no list, which comes last.
pub fn verify(folder: &Path) -> Result<(), Damage> {
    let text = fs::read_to_string(folder.join(LIST))
        .map_err(|error| Damage(format!("its {LIST} cannot be read ({error})")))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ' ');
        let sum_of = parts.next().and_then(|sum| u32::from_str_radix(sum, 16).ok());
        let (Some(expected), Some(bytes), Some(name)) =
            (sum_of, parts.next().and_then(|bytes| bytes.parse::<u64>().ok()), parts.next())
        else {
            return Err(Damage(format!("its {LIST} is damaged")));
        };
        let found =
            Sum::of(&folder.join(name)).map_err(|error| Damage(format!("its {name} cannot be read ({error})")))?;
        if found.bytes != bytes {
            return Err(Damage(format!("its {name} has {} bytes and not {bytes}", found.bytes)));
        }
        if found.crc != expected {
            return Err(Damage(format!("its {name} is not what was written (by its checksum)")));
        }
    }
    if text.is_empty() { Err(Damage(format!("its {LIST} is empty"))) } else { Ok(()) }
}

/// Whether the list that [`seal`] wrote has a file of the folder; where there is no list, every file counts.
#[must_use]
pub fn lists(folder: &Path, file: &Path) -> bool {
    let Ok(text) = fs::read_to_string(folder.join(LIST)) else { return true };
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    text.lines().any(|line| line.splitn(3, ' ').nth(2) == Some(name.as_ref()))
}

/// CRC-32 and length of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    crc: u32,
    bytes: u64,
}

impl Sum {
    /// That of a file.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let (mut file, mut summing) = (File::open(path)?, Summing::default());
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(summing.finish()),
                read => summing.add(&buffer[..read]),
            }
        }
    }
}

/// A sum that is being made.
#[derive(Debug, Default)]
pub(crate) struct Summing {
    hasher: crc32fast::Hasher,
    bytes: u64,
}

impl Summing {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) fn finish(self) -> Sum {
        Sum { crc: self.hasher.finalize(), bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_later_is_not_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        create(&path("a.bin"), "a").unwrap();
        assert!(lists(folder.path(), &path("b.bin")));
        seal(folder.path()).unwrap();
        create(&path("b.bin"), "b").unwrap();
        assert!(lists(folder.path(), &path("a.bin")) && !lists(folder.path(), &path("b.bin")));
        assert!(verify(folder.path()).is_ok());
    }

    #[test]
    fn a_sum_that_is_known_is_listed_as_one_that_is_read() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&folder, &other] {
            create(&folder.path().join("a"), "123456789").unwrap();
            create(&folder.path().join("b"), "b").unwrap();
        }
        let sum = Sum::of(&folder.path().join("a")).unwrap();
        seal_with(folder.path(), &[("a".to_owned(), sum)]).unwrap();
        seal(other.path()).unwrap();
        let list = |folder: &tempfile::TempDir| fs::read_to_string(folder.path().join(LIST)).unwrap();
        assert_eq!(list(&folder), list(&other));
        // It is taken as it is.
        create(&other.path().join("c"), "c").unwrap();
        fs::remove_file(other.path().join(LIST)).unwrap();
        seal_with(other.path(), &[("c".to_owned(), sum)]).unwrap();
        assert_eq!(verify(other.path()).unwrap_err().to_string(), "its c has 1 bytes and not 9");
    }

    #[test]
    fn a_changed_cut_or_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a"), "123456789").unwrap();
        fs::write(at("b c"), [7; 100_000]).unwrap();
        let damage = || verify(folder.path()).unwrap_err().to_string();
        assert!(damage().contains("checksums.txt cannot be read"));
        seal(folder.path()).unwrap();
        // The check value of CRC-32 (ISO-HDLC) is that of these nine digits.
        assert!(fs::read_to_string(at(LIST)).unwrap().starts_with("cbf43926 9 a\n"));
        verify(folder.path()).unwrap();
        let mut changed = vec![7; 100_000];
        changed[70_000] = 6;
        fs::write(at("b c"), &changed).unwrap();
        assert_eq!(damage(), "its b c is not what was written (by its checksum)");
        fs::write(at("b c"), &changed[1..]).unwrap();
        assert_eq!(damage(), "its b c has 99999 bytes and not 100000");
        fs::remove_file(at("b c")).unwrap();
        assert!(damage().starts_with("its b c cannot be read"));
        for list in ["", "cbf43926 9", "xyz 9 a"] {
            fs::write(at(LIST), list).unwrap();
            assert!(verify(folder.path()).is_err(), "{list}");
        }
    }
}
