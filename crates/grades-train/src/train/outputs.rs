//! Outputs of frozen first layers, kept by what they are of, so that later passes start above them: in memory, or in a file.
//!
//! An entry is the output of the first layers for one text or one picture. While more layers freeze, an entry of fewer is run on
//! through the rest and replaced; when some train again, nothing is left. Nothing is evicted: everything comes once an epoch, so
//! that an entry dropped for another would gain nothing.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;

use grades_models::Decoder;
use grades_tensor::Tensor;
use half::bf16;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outputs_file::{OutputsFile, Stamp, Stored};

/// Where outputs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Nowhere.
    #[default]
    Off,
    /// In memory.
    Memory,
    /// In a file.
    Disk,
}

/// Their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As they are.
    #[default]
    F32,
    /// Rounded to half the size.
    Bf16,
}

impl Dtype {
    /// Bytes of one.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// How outputs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where.
    pub place: Place,
    /// Most bytes of all of them.
    pub size: u64,
    /// Their numbers.
    pub dtype: Dtype,
}

/// Where the file is, if there is one.
#[derive(Clone, Debug)]
pub(super) enum Home {
    /// In this folder, without a name, so that it is gone with the process.
    Unnamed(PathBuf),
    /// Of this name. What another process has left there is used where it is of the same values.
    Named {
        /// Its name.
        path: PathBuf,
        /// All that its outputs follow from but the values of the layers.
        context: u128,
    },
}

#[derive(Debug)]
struct Entry {
    /// Layers that it is the output of.
    layers: usize,
    at: At,
}

#[derive(Debug)]
enum At {
    Memory(Vec<u8>),
    File(Stored),
}

impl At {
    fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(stored) => stored.bytes,
        }
    }
}

/// Values of a device's memory as rows of that width.
pub(super) fn rows(model: &Decoder, values: Vec<f32>, width: usize) -> Tensor {
    let rows = values.len() / width.max(1);
    model.device().from_host(values, [rows, width])
}

/// What is asked for, and how it is computed.
pub(super) trait Source {
    /// Why it cannot be computed.
    type Error;

    /// How many numbers the output of the first `layers` layers for an item has.
    fn count(&self, item: usize, layers: usize) -> usize;

    /// A hash of the values of the first layers. Asked for only where the file has a name.
    fn fingerprint(&self, layers: usize) -> u128;

    /// The outputs of the first `layers` layers for `items`, one behind another, from those of the first `known`; where that is 0,
    /// from nothing.
    fn run(&mut self, items: &[usize], known: usize, values: Vec<f32>, layers: usize) -> Result<Vec<f32>, Self::Error>;
}

/// Outputs of one stack of layers.
#[derive(Debug)]
pub(super) struct Outputs {
    options: Options,
    home: Home,
    file: Option<OutputsFile>,
    entries: HashMap<u128, Entry>,
    /// Entries of another process, with the hash of the layers that they are the output of.
    found: Vec<(u128, u128, Entry)>,
    /// Hashes of the values of so many first layers.
    fingerprints: HashMap<usize, u128>,
    bytes: u64,
    layers: usize,
    failure: Option<io::Error>,
}

impl Outputs {
    /// None yet, but those of a file that is there already.
    pub(super) fn new(options: Options, home: Home) -> Self {
        let mut new = Self {
            options,
            home,
            file: None,
            entries: HashMap::new(),
            found: Vec::new(),
            fingerprints: HashMap::new(),
            bytes: 0,
            layers: 0,
            failure: None,
        };
        if new.options.place == Place::Disk && matches!(new.home, Home::Named { .. }) {
            let opened = new.open().map(|_| ());
            new.check(opened);
        }
        new
    }

    /// Whether anything is kept.
    pub(super) fn is_on(&self) -> bool {
        self.options.place != Place::Off
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why no more are kept, once.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Forgets everything: the values of the layers have changed.
    pub(super) fn clear(&mut self) {
        self.entries = HashMap::new();
        self.found = Vec::new();
        self.fingerprints = HashMap::new();
        self.bytes = 0;
        let emptied = self.file.as_mut().map_or(Ok(()), OutputsFile::clear);
        self.check(emptied);
    }

    /// From now on the first `layers` layers are frozen. To be told before every step, as layers that train move even where nothing
    /// is asked for.
    pub(super) fn up_to(&mut self, layers: usize) {
        if layers < self.layers {
            self.clear();
        }
        self.layers = layers;
    }

    /// Whether the output of all frozen layers is known.
    pub(super) fn knows(&self, key: u128) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.layers == self.layers)
    }

    /// The outputs of the frozen layers for each of `keys`, no two of which are the same, computed only as far as they are not
    /// known. With `keep` they are kept for the next time.
    ///
    /// A file that fails ends the keeping, and is no error.
    ///
    /// # Errors
    /// Those of `source`.
    pub(super) fn of<S: Source>(
        &mut self,
        keys: &[u128],
        keep: bool,
        source: &mut S,
    ) -> Result<Vec<Vec<f32>>, S::Error> {
        self.adopt(source);
        let layers = self.layers;
        let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); keys.len()];
        // By how far they are already computed.
        let mut groups: BTreeMap<usize, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
        for (item, &key) in keys.iter().enumerate() {
            let known = self.entries.get(&key).map_or(0, |entry| entry.layers);
            let values = self.load(key).filter(|values| values.len() == source.count(item, known));
            match values {
                Some(values) if known == layers => outputs[item] = values,
                values => {
                    let group = groups.entry(if values.is_some() { known } else { 0 }).or_default();
                    group.0.push(item);
                    group.1.extend(values.unwrap_or_default());
                }
            }
        }
        for (known, (items, values)) in groups {
            let computed = source.run(&items, known, values, layers)?;
            let mut rest = computed.as_slice();
            for item in items {
                let values;
                (values, rest) = rest.split_at(source.count(item, layers).min(rest.len()));
                outputs[item] = values.to_vec();
                if keep && self.is_on() {
                    let stored = self.store(keys[item], values, source);
                    self.check(stored);
                }
            }
        }
        Ok(outputs)
    }

    /// Ends the keeping if the file has failed.
    fn check(&mut self, result: io::Result<()>) {
        if let Err(failure) = result {
            self.options.place = Place::Off;
            self.file = None;
            (self.entries, self.found, self.bytes) = (HashMap::new(), Vec::new(), 0);
            self.failure = Some(failure);
        }
    }

    /// Takes over what another process has kept, as far as it is the output of layers with the values that they have now.
    fn adopt<S: Source>(&mut self, source: &S) {
        for (key, of, entry) in std::mem::take(&mut self.found) {
            let layers = entry.layers;
            let is_ours = layers > 0 && layers <= self.layers && self.fingerprint(layers, source) == of;
            if is_ours && self.bytes + entry.at.bytes() <= self.options.size {
                self.insert(key, entry);
            }
        }
    }

    fn fingerprint<S: Source>(&mut self, layers: usize, source: &S) -> u128 {
        *self.fingerprints.entry(layers).or_insert_with(|| source.fingerprint(layers))
    }

    fn insert(&mut self, key: u128, entry: Entry) {
        self.bytes += entry.at.bytes();
        if let Some(before) = self.entries.insert(key, entry) {
            self.bytes -= before.at.bytes();
        }
    }

    fn open(&mut self) -> io::Result<&mut OutputsFile> {
        let file = match self.file.take() {
            Some(file) => file,
            None => match &self.home {
                Home::Unnamed(folder) => OutputsFile::unnamed(folder)?,
                Home::Named { path, context } => {
                    let (file, found) = OutputsFile::open(path, *context)?;
                    let entry = |(stamp, stored): (Stamp, Stored)| {
                        (stamp.key, stamp.fingerprint, Entry { layers: stamp.layers, at: At::File(stored) })
                    };
                    self.found = found.into_iter().map(entry).collect();
                    file
                }
            },
        };
        Ok(self.file.insert(file))
    }

    /// The numbers of an entry; `None` where there is none, or the file no longer has it as it was.
    fn load(&mut self, key: u128) -> Option<Vec<f32>> {
        let bytes: Cow<'_, [u8]> = match &self.entries.get(&key)?.at {
            At::Memory(bytes) => bytes.into(),
            At::File(stored) => match self.file.as_mut()?.read(stored) {
                Ok(bytes) => bytes?.into(),
                Err(failure) => {
                    self.check(Err(failure));
                    return None;
                }
            },
        };
        Some(match self.options.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect(),
            Dtype::Bf16 => bytes.as_chunks().0.iter().map(|number| bf16::from_le_bytes(*number).to_f32()).collect(),
        })
    }

    /// Keeps an entry, in the place of the last one of its key or where there is room.
    fn store<S: Source>(&mut self, key: u128, values: &[f32], source: &S) -> io::Result<()> {
        let size = (values.len() * self.options.dtype.bytes()) as u64;
        let before = self.entries.get(&key).map_or(0, |entry| entry.at.bytes());
        if self.bytes - before + size > self.options.size {
            return Ok(());
        }
        let bytes: Vec<u8> = match self.options.dtype {
            Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        };
        let layers = self.layers;
        let at = match self.options.place {
            Place::Disk => {
                let is_named = matches!(self.home, Home::Named { .. });
                let fingerprint = if is_named { self.fingerprint(layers, source) } else { 0 };
                let stamp = Stamp { key, fingerprint, layers };
                let place = self.entries.get(&key).and_then(|entry| match &entry.at {
                    At::File(stored) if stored.bytes == size => Some(stored.offset),
                    _ => None,
                });
                At::File(self.open()?.write(place, &stamp, &bytes)?)
            }
            Place::Off | Place::Memory => At::Memory(bytes),
        };
        self.insert(key, Entry { layers, at });
        Ok(())
    }
}
