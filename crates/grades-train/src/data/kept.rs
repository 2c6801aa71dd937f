//! Samples in tokens that were kept on disk: a folder with one file and its checksum, there whole or not at all.
//!
//! The file is a line that says what it is, a line of JSON with what encoding came to, and the samples, each as its set, its length, its
//! tokens (all `u32`, little-endian) and a bit for each token that is learnt.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use grades_fs::Staging;
use grades_models::fields::warn_once;
use grades_tensor::IGNORE_INDEX;
use serde::{Deserialize, Serialize};

use super::encode::Tokenized;
use super::error::DataError;
use super::samples::Samples;

const NAME: &str = "samples.bin";
const MAGIC: &[u8] = b"grades samples 2\n";

/// What encoding came to beside the samples.
#[derive(Serialize, Deserialize)]
struct Head {
    samples: usize,
    dropped: usize,
    truncated: usize,
    skipped: usize,
    told: Vec<String>,
}

/// The samples of a folder; or those that `make` makes, which the folder then has. What is damaged is made anew, with a warning. A disk
/// that refuses them is no error.
///
/// # Errors
/// Those of `make`.
pub fn load_or_make(folder: &Path, make: impl FnOnce() -> Result<Samples, DataError>) -> Result<Samples, DataError> {
    let is_there = folder.symlink_metadata().is_ok();
    if is_there {
        let damage = match grades_fs::verify(folder) {
            Err(damage) => damage.to_string(),
            Ok(()) => match fs::read(folder.join(NAME)).map(|bytes| read(&bytes)) {
                Ok(Some(samples)) => {
                    samples.told.iter().for_each(|sentence| warn_once(sentence.clone()));
                    return Ok(samples);
                }
                Ok(None) => format!("its {NAME} is not what this version writes"),
                Err(error) => format!("its {NAME} cannot be read ({error})"),
            },
        };
        warn_once(format!("{}: the encoded samples are made anew, as {damage}", folder.display()));
    }
    let samples = make()?;
    if let Err(error) = keep(folder, &samples) {
        warn_once(format!("the encoded samples are not kept ({error})"));
    }
    Ok(samples)
}

fn keep(folder: &Path, samples: &Samples) -> Result<(), grades_fs::Error> {
    let staging = Staging::beside(folder)?;
    let file = staging.path().join(NAME);
    let written = File::create(&file).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file, samples)?;
        file.flush()
    });
    written.map_err(|source| grades_fs::Error { path: folder.to_owned(), source })?;
    grades_fs::seal(staging.path())?;
    staging.replace()
}

fn write(file: &mut impl Write, all: &Samples) -> io::Result<()> {
    let Samples { samples, sets, rows, dropped, truncated, skipped, told } = all;
    let (dropped, truncated, skipped) = (*dropped, *truncated, *skipped);
    let head = Head { samples: samples.len(), dropped, truncated, skipped, told: told.clone() };
    file.write_all(MAGIC)?;
    serde_json::to_writer(&mut *file, &head)?;
    file.write_all(b"\n")?;
    let number = |number: usize| u32::try_from(number).map_err(io::Error::other);
    for ((sample, &set), &row) in samples.iter().zip(sets).zip(rows) {
        let header = [number(set)?, number(row)?, number(sample.ids.len())?];
        let numbers = header.iter().chain(&sample.ids);
        file.write_all(&numbers.flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())?;
        let byte = |labels: &[i64]| {
            labels.iter().enumerate().fold(0_u8, |byte, (bit, label)| byte | u8::from(*label != IGNORE_INDEX) << bit)
        };
        file.write_all(&sample.labels.chunks(8).map(byte).collect::<Vec<u8>>())?;
    }
    Ok(())
}

/// `None` of what is no such file.
fn read(bytes: &[u8]) -> Option<Samples> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let Head { samples, dropped, truncated, skipped, told } = serde_json::from_slice(&rest[..end]).ok()?;
    let mut rest = &rest[end + 1..];
    let mut all = Samples { dropped, truncated, skipped, told, ..Samples::default() };
    for _ in 0..samples {
        let (set, row, len) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)? as usize);
        let (ids, others) = rest.split_at_checked(len.checked_mul(4)?)?;
        let (learnt, others) = others.split_at_checked(len.div_ceil(8))?;
        rest = others;
        let ids: Vec<u32> = ids.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        let label = |(at, id): (usize, &u32)| match learnt[at / 8] >> (at % 8) & 1 {
            1 => i64::from(*id),
            _ => IGNORE_INDEX,
        };
        let labels = ids.iter().enumerate().map(label).collect();
        all.samples.push(Tokenized { ids, labels, pictures: Vec::new() });
        all.sets.push(set as usize);
        all.rows.push(row as usize);
    }
    rest.is_empty().then_some(all)
}

fn take(rest: &mut &[u8]) -> Option<u32> {
    let (number, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Samples {
        let sample = |seed: u32| {
            let ids: Vec<u32> = (0..seed % 19).map(|at| at * at * 7919 + seed).collect();
            let label = |(at, id): (usize, &u32)| {
                if (at as u32 + seed).is_multiple_of(3) { IGNORE_INDEX } else { i64::from(*id) }
            };
            Tokenized { labels: ids.iter().enumerate().map(label).collect(), ids, pictures: Vec::new() }
        };
        let told = vec!["a: of the columns `x` is not read".to_owned()];
        Samples {
            samples: (0..40).map(sample).collect(),
            sets: (0..40).map(|at| at / 30).collect(),
            rows: (0..40).map(|at| at / 3).collect(),
            skipped: 1,
            dropped: 3,
            truncated: 2,
            told,
        }
    }

    #[test]
    fn what_was_kept_comes_back_and_nothing_is_made_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("prepared/0a");
        assert_eq!(load_or_make(&folder, || Ok(samples())).unwrap(), samples());
        assert_eq!(load_or_make(&folder, || panic!("it is there")).unwrap(), samples());
        let empty = Samples::default();
        let other = parent.path().join("prepared/0b");
        assert_eq!(load_or_make(&other, || Ok(empty.clone())).unwrap(), empty);
        assert_eq!(load_or_make(&other, || panic!("it is there")).unwrap(), empty);
        // A mistake leaves nothing behind.
        let none = parent.path().join("prepared/0c");
        assert!(load_or_make(&none, || Err(DataError::Format("no".to_owned()))).is_err() && !none.exists());
    }

    #[test]
    fn what_is_damaged_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("0a");
        load_or_make(&folder, || Ok(samples())).unwrap();
        let file = folder.join(NAME);
        let whole = fs::read(&file).unwrap();
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        for bytes in [&whole[..whole.len() - 1], &changed, b""] {
            fs::write(&file, bytes).unwrap();
            let mut made = 0;
            let anew = || {
                made += 1;
                Ok(samples())
            };
            assert_eq!(load_or_make(&folder, anew).unwrap(), samples());
            assert_eq!((made, fs::read(&file).unwrap()), (1, whole.clone()));
        }
    }

    /// Of bytes whose checksum is right, too.
    #[test]
    fn no_bytes_end_the_program() {
        let mut bytes = Vec::new();
        write(&mut bytes, &samples()).unwrap();
        assert_eq!(read(&bytes), Some(samples()));
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_none());
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = 0xff;
            let _ = read(&damaged);
        }
    }
}
