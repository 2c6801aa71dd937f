//! Samples in tokens that were kept on disk: a folder with two files and their checksums, there whole or not at all.
//!
//! `tokens.bin` is the samples, one behind another ([`held`](super::held)). `index.bin` is a line that says what it is, a line of JSON with
//! what encoding came to, and of each sample its set, its row, how many tokens it has, how many a model must read and how many are learnt
//! (all `u32`, little-endian), and a hash (`u128`). Only the index is read into memory, so data may be larger than it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use grades_fs::Staging;
use grades_models::fields::warn_once;
use serde::{Deserialize, Serialize};

use super::encode::Tokenized;
use super::error::DataError;
use super::held::{Counts, Entry, Held, TokensFile};
use super::samples::{Keep, Samples};

const TOKENS: &str = "tokens.bin";
const INDEX: &str = "index.bin";
const MAGIC: &[u8] = b"grades samples 3\n";
/// Bytes of a sample in the index.
const RECORD: usize = 5 * 4 + 16;

/// What encoding came to beside the samples.
#[derive(Serialize, Deserialize)]
struct Head {
    samples: usize,
    dropped: usize,
    truncated: usize,
    skipped: usize,
    told: Vec<String>,
}

/// The samples of a folder; or those that `make` makes, which the folder then has: `make` gives each to what it gets, as soon as it is
/// encoded. What is damaged is made anew, with a warning. A disk that refuses them is no error: then they are made in memory.
///
/// # Errors
/// Those of `make`.
pub fn load_or_make(
    folder: &Path,
    make: impl Fn(&mut Keep<'_>) -> Result<Samples, DataError>,
) -> Result<Samples, DataError> {
    let is_there = folder.symlink_metadata().is_ok();
    if is_there {
        let damage = match grades_fs::verify(folder) {
            Err(damage) => damage.to_string(),
            Ok(()) => match open(folder) {
                Ok(Some(samples)) => {
                    samples.told.iter().for_each(|sentence| warn_once(sentence.clone()));
                    return Ok(samples);
                }
                Ok(None) => format!("its {INDEX} is not what this version writes"),
                Err(error) => format!("its files cannot be read ({error})"),
            },
        };
        warn_once(format!("{}: the encoded samples are made anew, as {damage}", folder.display()));
    }
    match fill(folder, &make) {
        Ok(samples) => Ok(samples),
        Err(Failure::Data(error)) => Err(error),
        Err(Failure::Disk(error)) => {
            warn_once(format!("the encoded samples are not kept, and are all in memory ({error})"));
            make(&mut |sample, _| Ok(sample.into()))
        }
    }
}

/// Why a folder was not filled.
enum Failure {
    /// The samples cannot be made.
    Data(DataError),
    /// They cannot be written.
    Disk(grades_fs::Error),
}

impl From<grades_fs::Error> for Failure {
    fn from(error: grades_fs::Error) -> Self {
        Self::Disk(error)
    }
}

fn fill(folder: &Path, make: impl Fn(&mut Keep<'_>) -> Result<Samples, DataError>) -> Result<Samples, Failure> {
    let failed = |source| Failure::Disk(grades_fs::Error { path: folder.to_owned(), source });
    let staging = Staging::beside(folder)?;
    let file = TokensFile::at(&folder.join(TOKENS));
    let written = File::create(staging.path().join(TOKENS)).map_err(failed)?;
    let mut writing = Writing { file: file.clone(), written: BufWriter::with_capacity(1 << 20, written), at: 0 };
    let mut refused = None;
    let made = make(&mut |sample, bytes| {
        writing.push(&sample, bytes).map_err(|error| {
            refused = Some(error.kind());
            DataError::Read { path: folder.join(TOKENS), source: error }
        })
    });
    let samples = match (made, refused) {
        (Ok(samples), _) => samples,
        (Err(_), Some(kind)) => return Err(failed(kind.into())),
        (Err(error), None) => return Err(Failure::Data(error)),
    };
    let index = File::create(staging.path().join(INDEX)).and_then(|index| {
        writing.written.flush()?;
        let mut index = BufWriter::new(index);
        write(&mut index, &samples)?;
        index.flush()
    });
    index.map_err(failed)?;
    drop(writing);
    grades_fs::seal(staging.path())?;
    staging.replace()?;
    // So that nobody who clears the folder takes it from a run.
    file.open().map_err(failed)?;
    Ok(samples)
}

/// The samples of a folder as they are written.
struct Writing {
    file: Arc<TokensFile>,
    written: BufWriter<File>,
    at: u64,
}

impl Writing {
    fn push(&mut self, sample: &Tokenized, bytes: &[u8]) -> io::Result<Held> {
        self.written.write_all(bytes)?;
        let entry = Entry { file: self.file.clone(), at: self.at, counts: Counts::of(sample)? };
        self.at += bytes.len() as u64;
        Ok(Held::File(entry))
    }
}

fn write(file: &mut impl Write, all: &Samples) -> io::Result<()> {
    let Samples { samples, sets, rows, hashes, dropped, truncated, skipped, told } = all;
    let (dropped, truncated, skipped) = (*dropped, *truncated, *skipped);
    let head = Head { samples: samples.len(), dropped, truncated, skipped, told: told.clone() };
    file.write_all(MAGIC)?;
    serde_json::to_writer(&mut *file, &head)?;
    file.write_all(b"\n")?;
    let number = |number: usize| u32::try_from(number).map_err(io::Error::other);
    for ((sample, hash), (&set, &row)) in samples.iter().zip(hashes).zip(sets.iter().zip(rows)) {
        let of_sample = [sample.len(), sample.inputs(), sample.label_count()];
        for of in [set, row].into_iter().chain(of_sample) {
            file.write_all(&number(of)?.to_le_bytes())?;
        }
        file.write_all(&hash.to_le_bytes())?;
    }
    Ok(())
}

/// Those of a folder; `None` if it is none of this version.
fn open(folder: &Path) -> io::Result<Option<Samples>> {
    let file = TokensFile::at(&folder.join(TOKENS));
    let length = file.open()?;
    Ok(read(&fs::read(folder.join(INDEX))?, length, &file))
}

/// `None` of what is no index of a file of so many bytes.
fn read(bytes: &[u8], length: u64, file: &Arc<TokensFile>) -> Option<Samples> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let Head { samples, dropped, truncated, skipped, told } = serde_json::from_slice(&rest[..end]).ok()?;
    let (records, []) = rest[end + 1..].as_chunks::<RECORD>() else { return None };
    let mut all = Samples { dropped, truncated, skipped, told, ..Samples::default() };
    let mut at = 0_u64;
    for record in records {
        let (numbers, hash) = record.split_last_chunk()?;
        let mut numbers = numbers.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number));
        let mut next = || numbers.next();
        let (set, row) = (next()?, next()?);
        let counts = Counts { tokens: next()?, inputs: next()?, labels: next()? };
        if !counts.are_possible() {
            return None;
        }
        all.push(
            (set as usize, row as usize),
            Held::File(Entry { file: file.clone(), at, counts }),
            u128::from_le_bytes(*hash),
        );
        at = at.checked_add(counts.bytes())?;
    }
    (at == length && records.len() == samples).then_some(all)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use grades_tensor::IGNORE_INDEX;

    use super::super::batch::{Loader, LoaderOptions};
    use super::super::held;
    use super::*;

    fn tokens(seed: u32) -> Tokenized {
        let ids: Vec<u32> = (0..2 + seed % 19).map(|at| at * at * 7919 + seed).collect();
        let label = |(at, id): (usize, &u32)| {
            if at != 1 && (at as u32 + seed).is_multiple_of(3) { IGNORE_INDEX } else { i64::from(*id) }
        };
        Tokenized { labels: ids.iter().enumerate().map(label).collect(), ids, pictures: Vec::new() }
    }

    fn make(keep: &mut Keep<'_>) -> Result<Samples, DataError> {
        let told = vec!["a: of the columns `x` is not read".to_owned()];
        let mut all = Samples { skipped: 1, dropped: 3, truncated: 2, told, ..Samples::default() };
        for seed in 0..40 {
            let (sample, at) = (tokens(seed), seed as usize);
            let held = keep(sample.clone(), &held::bytes(&sample))?;
            all.push((at / 30, at / 3), held, u128::MAX - u128::from(seed));
        }
        Ok(all)
    }

    fn in_memory() -> Samples {
        make(&mut |sample, _| Ok(sample.into())).unwrap()
    }

    /// All that is known of samples, read where they are.
    fn known(all: &Samples) -> impl PartialEq + std::fmt::Debug + use<> {
        let counts: Vec<[usize; 3]> =
            all.samples.iter().map(|sample| [sample.len(), sample.inputs(), sample.label_count()]).collect();
        let Samples { sets, rows, hashes, dropped, truncated, skipped, told, .. } = all.clone();
        (all.tokens(), counts, sets, rows, hashes, [dropped, truncated, skipped], told)
    }

    #[test]
    fn what_was_kept_comes_back_and_nothing_is_made_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("prepared/0a");
        let never = |_: &mut Keep<'_>| panic!("it is there");
        assert_eq!(known(&load_or_make(&folder, make).unwrap()), known(&in_memory()));
        assert_eq!(known(&load_or_make(&folder, never).unwrap()), known(&in_memory()));
        let other = parent.path().join("prepared/0b");
        assert!(load_or_make(&other, |_| Ok(Samples::default())).unwrap().samples.is_empty());
        assert!(load_or_make(&other, never).unwrap().samples.is_empty());
        // A mistake leaves nothing behind.
        let none = parent.path().join("prepared/0c");
        let mistake = |keep: &mut Keep<'_>| make(keep).and(Err(DataError::Format("no".to_owned())));
        assert!(load_or_make(&none, mistake).is_err() && !none.exists());
    }

    /// Neither after it was made nor after it was opened are there tokens in memory: what a step has comes from the file, and a step
    /// needs no other part of it than that of its own samples.
    #[test]
    fn tokens_stay_in_the_file_until_a_step_needs_them() {
        let parent = tempfile::tempdir().unwrap();
        let options = LoaderOptions {
            micro_batch_size: 3,
            gradient_accumulation_steps: 2,
            packing: None,
            shuffle: true,
            seed: 5,
        };
        let steps = |samples: Samples| {
            let mut loader = Loader::new(samples.samples, options);
            (0..loader.steps_per_epoch()).map(|step| loader.step(step).unwrap()).collect::<Vec<_>>()
        };
        for name in ["0a", "0a"] {
            let folder = parent.path().join(name);
            let all = load_or_make(&folder, make).unwrap();
            assert!(all.samples.iter().all(|sample| matches!(sample, Held::File(_))));
            assert_eq!(steps(all.clone()), steps(in_memory()));
            // Its second half goes.
            let file = folder.join(TOKENS);
            let whole = fs::read(&file).unwrap();
            File::options().write(true).open(&file).unwrap().set_len(whole.len() as u64 / 2).unwrap();
            let unshuffled = LoaderOptions { shuffle: false, ..options };
            let mut loader = Loader::new(all.samples, unshuffled);
            assert_eq!(loader.step(0).unwrap(), Loader::new(in_memory().samples, unshuffled).step(0).unwrap());
            let error = loader.step(loader.steps_per_epoch() - 1).unwrap_err().to_string();
            assert!(error.contains(TOKENS) && error.contains("cannot be read"), "{error}");
            fs::write(&file, whole).unwrap();
        }
    }

    #[test]
    fn what_is_damaged_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("0a");
        load_or_make(&folder, make).unwrap();
        for name in [TOKENS, INDEX] {
            let file = folder.join(name);
            let whole = fs::read(&file).unwrap();
            let mut changed = whole.clone();
            *changed.last_mut().unwrap() ^= 1;
            for bytes in [&whole[..whole.len() - 1], &changed, b""] {
                fs::write(&file, bytes).unwrap();
                let made = Cell::new(0);
                let anew = |keep: &mut Keep<'_>| {
                    made.set(made.get() + 1);
                    make(keep)
                };
                assert_eq!(known(&load_or_make(&folder, anew).unwrap()), known(&in_memory()));
                assert_eq!((made.get(), fs::read(&file).unwrap()), (1, whole.clone()));
            }
        }
    }

    /// Where nothing can be written, all is made in memory.
    #[test]
    fn a_disk_that_refuses_is_no_error() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let all = load_or_make(&file.join("0a"), make).unwrap();
        assert_eq!(known(&all), known(&in_memory()));
    }

    /// Of bytes whose checksum is right, too.
    #[test]
    fn no_bytes_end_the_program() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("0a");
        load_or_make(&folder, make).unwrap();
        let file = TokensFile::at(&folder.join(TOKENS));
        let (bytes, length) = (fs::read(folder.join(INDEX)).unwrap(), file.open().unwrap());
        assert_eq!(known(&read(&bytes, length, &file).unwrap()), known(&in_memory()));
        assert!(read(&bytes, length + 1, &file).is_none());
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], length, &file).is_none());
        }
        for at in 0..bytes.len() {
            for value in [0, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let Some(samples) = read(&damaged, length, &file) else { continue };
                samples.samples.iter().for_each(|sample| drop(sample.tokens()));
                let mut loader = Loader::new(
                    samples.samples,
                    LoaderOptions {
                        micro_batch_size: 40,
                        gradient_accumulation_steps: 1,
                        packing: None,
                        shuffle: false,
                        seed: 0,
                    },
                );
                let _ = loader.step(0);
            }
        }
    }
}
