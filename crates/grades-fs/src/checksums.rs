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
    let mut names: Vec<_> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>())
        .map_err(Error::at(folder))?;
    names.sort();
    let mut list = String::new();
    for name in names {
        let path = folder.join(&name);
        let (sum, bytes) = sum(&path).map_err(Error::at(&path))?;
        let _ = writeln!(list, "{sum:08x} {bytes} {}", name.to_string_lossy());
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
        let (found, length) =
            sum(&folder.join(name)).map_err(|error| Damage(format!("its {name} cannot be read ({error})")))?;
        if length != bytes {
            return Err(Damage(format!("its {name} has {length} bytes and not {bytes}")));
        }
        if found != expected {
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
fn sum(path: &Path) -> io::Result<(u32, u64)> {
    let (mut file, mut hasher) = (File::open(path)?, crc32fast::Hasher::new());
    let (mut buffer, mut length) = (vec![0; 1 << 16], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher.finalize(), length)),
            read => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
        }
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
