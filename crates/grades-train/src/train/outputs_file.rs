//! A file of outputs: records one behind another, each with a hash over all of it, so that one that was cut short, or is damaged,
//! is as if it were not there.
//!
//! It begins with a magic number and the hash of all that its outputs follow from but the values of layers. A record is a key, the
//! hash of the values of the layers and how many these are, the length of its body, and the hashes of the body and of what stands
//! before; then the body. All numbers are little-endian.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use twox_hash::XxHash3_64;

const MAGIC: [u8; 16] = *b"GradES outputs 1";
/// The magic number and the hash of the context.
const BEGINNING: u64 = 32;
/// What comes before the body of a record.
const HEAD: usize = 64;

/// What an output is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) key: u128,
    /// The hash of the values of the layers.
    pub(super) fingerprint: u128,
    pub(super) layers: usize,
}

/// Where an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Of its record.
    pub(super) offset: u64,
    /// Of its body.
    pub(super) bytes: u64,
    hash: u64,
}

#[derive(Debug)]
pub(super) struct OutputsFile {
    file: File,
    end: u64,
}

impl OutputsFile {
    /// A new one that has no name, and so is gone with the process.
    pub(super) fn unnamed(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, end: BEGINNING })
    }

    /// The file of that name with what is whole of it, a new one where there is none or it is of another context. While another
    /// process has it open, one without a name beside it.
    pub(super) fn open(path: &Path, context: u128) -> io::Result<(Self, Vec<(Stamp, Stored)>)> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok((Self::unnamed(folder)?, Vec::new())),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let beginning = [MAGIC, context.to_le_bytes()].concat();
        let mut found = vec![0; beginning.len()];
        if file.read_exact(&mut found).is_err() || found != beginning {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&beginning)?;
            return Ok((Self { file, end: BEGINNING }, Vec::new()));
        }
        let (records, end) = records(&mut file)?;
        file.set_len(end)?;
        Ok((Self { file, end }, records))
    }

    /// Forgets all records.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.end = BEGINNING;
        self.file.set_len(BEGINNING)
    }

    /// Writes a record at its end, or in the place of one whose body is as long.
    pub(super) fn write(&mut self, place: Option<u64>, stamp: &Stamp, body: &[u8]) -> io::Result<Stored> {
        let offset = place.unwrap_or(self.end);
        let stored = Stored { offset, bytes: body.len() as u64, hash: XxHash3_64::oneshot(body) };
        let mut record = Vec::with_capacity(HEAD + body.len());
        record.extend(stamp.key.to_le_bytes());
        record.extend(stamp.fingerprint.to_le_bytes());
        for number in [stamp.layers as u64, stored.bytes, stored.hash] {
            record.extend(number.to_le_bytes());
        }
        record.extend(XxHash3_64::oneshot(&record).to_le_bytes());
        record.extend(body);
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(&record)?;
        self.end = self.end.max(offset + record.len() as u64);
        Ok(stored)
    }

    /// The body of a record; `None` where it is not what was written.
    pub(super) fn read(&mut self, stored: &Stored) -> io::Result<Option<Vec<u8>>> {
        self.file.seek(SeekFrom::Start(stored.offset + HEAD as u64))?;
        let mut body = vec![0; stored.bytes as usize];
        match self.file.read_exact(&mut body) {
            Ok(()) => Ok(Some(body).filter(|body| XxHash3_64::oneshot(body) == stored.hash)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The records behind the beginning, up to the first that is not whole, and where they end.
fn records(file: &mut File) -> io::Result<(Vec<(Stamp, Stored)>, u64)> {
    let (length, mut records, mut offset) = (file.metadata()?.len(), Vec::new(), BEGINNING);
    let mut reader = BufReader::new(file);
    let mut head = [0; HEAD];
    while offset + HEAD as u64 <= length {
        reader.read_exact(&mut head)?;
        let (fields, check) = head.split_at(HEAD - 8);
        let wide = |at: usize| fields[at..].first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
        let number = |at: usize| fields[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let [layers, bytes, hash] = [32, 40, 48].map(number);
        let end = (offset + HEAD as u64).checked_add(bytes).filter(|end| *end <= length);
        let Some(end) = end.filter(|_| check == XxHash3_64::oneshot(fields).to_le_bytes()) else { break };
        let stamp = Stamp { key: wide(0), fingerprint: wide(16), layers: layers as usize };
        records.push((stamp, Stored { offset, bytes, hash }));
        reader.seek_relative(bytes as i64)?;
        offset = end;
    }
    Ok((records, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { key: 7, fingerprint: 9, layers: 2 };

    fn written(path: &Path) -> [Stored; 3] {
        let (mut file, found) = OutputsFile::open(path, 5).unwrap();
        assert!(found.is_empty());
        [&b"first"[..], b"the second", b"third"].map(|body| file.write(None, &STAMP, body).unwrap())
    }

    #[test]
    fn records_are_found_again_as_far_as_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("of/outputs");
        let stored = written(&path);
        let (mut file, found) = OutputsFile::open(&path, 5).unwrap();
        assert_eq!(found, stored.map(|stored| (STAMP, stored)));
        assert_eq!(file.read(&stored[1]).unwrap().unwrap(), b"the second");
        // In the place of one as long.
        let other = Stamp { layers: 3, ..STAMP };
        let again = file.write(Some(stored[0].offset), &other, b"FIRST").unwrap();
        assert_eq!((file.read(&stored[0]).unwrap(), file.read(&again).unwrap().unwrap()), (None, b"FIRST".to_vec()));
        drop(file);
        // Cut within the last body, and damaged in the second: the one is not found, the other is not read.
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 1);
        bytes[stored[1].offset as usize + HEAD] ^= 1;
        grades_fs::write(&path, &bytes).unwrap();
        let (mut file, found) = OutputsFile::open(&path, 5).unwrap();
        assert_eq!(found, [(other, again), (STAMP, stored[1])]);
        assert_eq!(file.read(&stored[1]).unwrap(), None);
        // What is written goes where the cut one was.
        assert_eq!(file.write(None, &STAMP, b"fourth").unwrap().offset, stored[2].offset);
        file.clear().unwrap();
        drop(file);
        assert!(OutputsFile::open(&path, 5).unwrap().1.is_empty());
    }

    /// Whatever byte was the last that a writer wrote before it was killed: what is found are the records before, and a body that is
    /// read is one that was written.
    #[test]
    fn a_writer_that_was_killed_leaves_whole_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outputs");
        let stored = written(&path);
        let before = fs::read(&path).unwrap();
        for cut in 0..=before.len() {
            grades_fs::write(&path, &before[..cut]).unwrap();
            let (_, found) = OutputsFile::open(&path, 5).unwrap();
            let ends = stored.iter().map(|stored| stored.offset as usize + HEAD + stored.bytes as usize);
            assert_eq!(found.len(), ends.filter(|end| *end <= cut).count(), "cut at {cut}");
            assert!(found.iter().map(|(_, stored)| stored).eq(&stored[..found.len()]));
        }
        // One in the place of another.
        grades_fs::write(&path, &before).unwrap();
        let other = Stamp { key: 8, ..STAMP };
        OutputsFile::open(&path, 5).unwrap().0.write(Some(stored[1].offset), &other, b"THE SECOND").unwrap();
        let after = fs::read(&path).unwrap();
        for cut in 0..=before.len() {
            grades_fs::write(&path, [&after[..cut], &before[cut..]].concat()).unwrap();
            let (mut file, found) = OutputsFile::open(&path, 5).unwrap();
            for (stamp, stored) in found {
                let body = file.read(&stored).unwrap();
                let wanted =
                    if stamp == other { &[&b"THE SECOND"[..]][..] } else { &[&b"first"[..], b"the second", b"third"] };
                assert!(body.is_none_or(|body| wanted.contains(&body.as_slice())), "cut at {cut}");
            }
        }
    }

    #[test]
    fn another_context_and_another_process_are_kept_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outputs");
        written(&path);
        let (file, found) = OutputsFile::open(&path, 5).unwrap();
        assert_eq!(found.len(), 3);
        let (mut beside, found) = OutputsFile::open(&path, 5).unwrap();
        assert!(found.is_empty());
        let stored = beside.write(None, &STAMP, b"mine").unwrap();
        assert_eq!(beside.read(&stored).unwrap().unwrap(), b"mine");
        drop((file, beside));
        assert_eq!(OutputsFile::open(&path, 5).unwrap().1.len(), 3);
        assert!(OutputsFile::open(&path, 6).unwrap().1.is_empty());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
