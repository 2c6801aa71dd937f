//! A sample in tokens that is in memory, or in a file of which memory has only where it lies and how long it is.
//!
//! What lies in a file is read when a batch needs it, by its position; what was read lately the system's page cache has.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use grades_tensor::IGNORE_INDEX;

use super::encode::Tokenized;
use super::error::DataError;
use super::placed::Placed;

/// A sample, wherever it is.
#[derive(Clone, Debug)]
pub enum Held {
    /// In memory.
    Memory(Arc<Tokenized>),
    /// In a file; it has no pictures.
    File(Entry),
}

/// What memory has of a sample in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) file: Arc<TokensFile>,
    /// Its first byte.
    pub(super) at: u64,
    pub(super) counts: Counts,
}

/// How large a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Its tokens.
    pub(super) tokens: u32,
    /// Those that a model must read: all before the last label.
    pub(super) inputs: u32,
    /// Those that count in the loss.
    pub(super) labels: u32,
}

impl From<Tokenized> for Held {
    fn from(tokens: Tokenized) -> Self {
        Self::Memory(Arc::new(tokens))
    }
}

impl Held {
    /// The sample.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn tokens(&self) -> Result<Cow<'_, Tokenized>, DataError> {
        match self {
            Self::Memory(tokens) => Ok(Cow::Borrowed(tokens)),
            Self::File(entry) => Ok(Cow::Owned(entry.read()?)),
        }
    }

    /// How many tokens it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(tokens) => tokens.ids.len(),
            Self::File(entry) => entry.counts.tokens as usize,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them a model must read.
    pub fn inputs(&self) -> usize {
        match self {
            Self::Memory(tokens) => tokens.inputs(),
            Self::File(entry) => entry.counts.inputs as usize,
        }
    }

    /// How many count in the loss.
    pub fn label_count(&self) -> usize {
        match self {
            Self::Memory(tokens) => tokens.label_count(),
            Self::File(entry) => entry.counts.labels as usize,
        }
    }

    /// Its pictures.
    pub fn pictures(&self) -> &[Placed] {
        match self {
            Self::Memory(tokens) => &tokens.pictures,
            Self::File(_) => &[],
        }
    }
}

impl Counts {
    pub(super) fn of(tokens: &Tokenized) -> io::Result<Self> {
        let number = |number: usize| u32::try_from(number).map_err(io::Error::other);
        Ok(Self {
            tokens: number(tokens.ids.len())?,
            inputs: number(tokens.inputs())?,
            labels: number(tokens.label_count())?,
        })
    }

    /// Whether there can be such a sample, which has something to learn.
    pub(super) fn are_possible(self) -> bool {
        (1..=self.inputs).contains(&self.labels) && self.inputs <= self.tokens.saturating_sub(1)
    }

    /// The bytes of such a sample.
    pub(super) fn bytes(self) -> u64 {
        let tokens = u64::from(self.tokens);
        4 * tokens + tokens.div_ceil(8)
    }
}

impl Entry {
    fn read(&self) -> Result<Tokenized, DataError> {
        let mut bytes = vec![0; self.counts.bytes() as usize];
        self.file
            .read(self.at, &mut bytes)
            .map_err(|source| DataError::Read { path: self.file.path.clone(), source })?;
        Ok(from_bytes(&bytes, self.counts.tokens as usize))
    }
}

/// A file of samples, one behind another, each as [`bytes`].
#[derive(Debug)]
pub(super) struct TokensFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl TokensFile {
    /// One that is opened when it is read for the first time, or by [`open`](Self::open).
    pub(super) fn at(path: &Path) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), file: Mutex::new(None) })
    }

    /// Opens it; its length.
    pub(super) fn open(&self) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(length)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *open {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(bytes)
    }
}

/// A sample without pictures as bytes: its tokens as little-endian `u32`, and a bit for each that is learnt.
pub(super) fn bytes(sample: &Tokenized) -> Vec<u8> {
    let byte = |labels: &[i64]| {
        labels.iter().enumerate().fold(0_u8, |byte, (bit, label)| byte | u8::from(*label != IGNORE_INDEX) << bit)
    };
    let mut bytes = Vec::with_capacity(4 * sample.ids.len() + sample.ids.len().div_ceil(8));
    sample.ids.iter().for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
    bytes.extend(sample.labels.chunks(8).map(byte));
    bytes
}

/// The sample of so many tokens that these bytes are.
fn from_bytes(bytes: &[u8], tokens: usize) -> Tokenized {
    let (ids, learnt) = bytes.split_at(4 * tokens);
    let ids: Vec<u32> = ids.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
    let label = |(at, id): (usize, &u32)| match learnt[at / 8] >> (at % 8) & 1 {
        1 => i64::from(*id),
        _ => IGNORE_INDEX,
    };
    let labels = ids.iter().enumerate().map(label).collect();
    Tokenized { ids, labels, pictures: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_sample() {
        for length in [0, 1, 7, 8, 9, 30] {
            let ids: Vec<u32> = (0..length).map(|at| at * at * 7919).collect();
            let label = |(at, id): (usize, &u32)| if at % 3 == 1 { IGNORE_INDEX } else { i64::from(*id) };
            let sample = Tokenized { labels: ids.iter().enumerate().map(label).collect(), ids, pictures: Vec::new() };
            let (bytes, counts) = (bytes(&sample), Counts::of(&sample).unwrap());
            assert_eq!(bytes.len() as u64, counts.bytes());
            assert_eq!(counts.are_possible(), counts.labels > 0);
            assert_eq!(from_bytes(&bytes, length as usize), sample);
            let held = Held::from(sample.clone());
            assert_eq!(
                [held.len(), held.inputs(), held.label_count()],
                [counts.tokens, counts.inputs, counts.labels].map(|count| count as usize)
            );
        }
    }

    /// A sample costs memory some tens of bytes, however many tokens it has.
    #[test]
    fn what_memory_has_of_a_sample_is_small() {
        assert!(size_of::<Held>() <= 40, "{}", size_of::<Held>());
    }
}
