//! Outputs of a frozen prefix by sample, so that later epochs start above it.
//!
//! An entry is the output of the first layers for one sample. While the prefix grows, an entry of fewer layers is run on
//! through the rest and replaced; when it shrinks, nothing is left. Nothing is evicted: every sample comes once an epoch,
//! so that an entry dropped for another would gain nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use grades_models::Decoder;
use grades_models::model::Prefix;
use grades_tensor::Tensor;
use half::bf16;
use serde::{Deserialize, Serialize};

use crate::data::Batch;

/// Where entries are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Nowhere.
    #[default]
    Off,
    /// In memory.
    Memory,
    /// In a file of the run's directory that has no name, and so is gone with the process.
    Disk,
}

/// The numbers of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As they are.
    #[default]
    F32,
    /// Rounded to half the size.
    Bf16,
}

/// The options of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where entries are kept.
    pub place: Place,
    /// Most bytes of all entries.
    pub size: u64,
    /// Their numbers.
    pub dtype: Dtype,
}

/// The samples that an index counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// Those of training.
    Train,
    /// Those kept back for validation.
    Validation,
}

#[derive(Debug)]
struct Entry {
    /// Layers that it is the output of.
    layers: usize,
    stored: Stored,
}

#[derive(Debug)]
enum Stored {
    Memory(Vec<u8>),
    /// Where it begins in the file.
    Disk(u64),
}

/// The cache of a run.
#[derive(Debug)]
pub struct PrefixCache {
    options: Options,
    folder: PathBuf,
    file: Option<File>,
    entries: HashMap<(Set, usize), Entry>,
    bytes: u64,
    layers: usize,
    failure: Option<io::Error>,
}

impl PrefixCache {
    /// An empty cache, whose file would be in `folder`.
    #[must_use]
    pub fn new(options: Options, folder: &Path) -> Self {
        let (file, entries) = (None, HashMap::new());
        Self { options, folder: folder.into(), file, entries, bytes: 0, layers: 0, failure: None }
    }

    /// Whether it keeps anything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.options.place != Place::Off
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets everything: the weights of the prefix have changed.
    pub fn clear(&mut self) {
        self.entries = HashMap::new();
        self.file = None;
        self.bytes = 0;
    }

    /// Why the cache has turned itself off, once.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// The output of the model's first `layers` layers for a batch, computed only as far as it is not there; `None` where
    /// the cache is off or there is no such layer. With `keep` the outputs are kept for the next time.
    ///
    /// A file that fails turns the cache off, and is no error.
    pub fn prefix(&mut self, model: &Decoder, layers: usize, set: Set, batch: &Batch, keep: bool) -> Option<Prefix> {
        if layers < self.layers {
            self.clear();
        }
        self.layers = layers;
        // What comes of pictures is kept by picture.
        if !self.is_on() || layers == 0 || !batch.pictures.is_empty() {
            return None;
        }
        match self.find(model, layers, set, batch, keep) {
            Ok(output) => Some(Prefix { output, layers }),
            Err(failure) => {
                self.clear();
                self.options.place = Place::Off;
                self.failure = Some(failure);
                None
            }
        }
    }

    fn find(&mut self, model: &Decoder, layers: usize, set: Set, batch: &Batch, keep: bool) -> io::Result<Tensor> {
        let (width, device) = (model.sizes().hidden_size, model.parameters()[0].value.device());
        let tensor = |values: Vec<f32>| {
            let rows = values.len() / width.max(1);
            device.from_host(values, [rows, width])
        };
        // The segments by how far they are already computed.
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (segment, sample) in batch.samples.iter().enumerate() {
            let known = self.entries.get(&(set, *sample)).map_or(0, |entry| entry.layers);
            groups.entry(known).or_default().push(segment);
        }
        let mut output = vec![0.0; batch.ids.len() * width];
        for (known, segments) in groups {
            let mut values = Vec::new();
            if known > 0 {
                for &segment in &segments {
                    let (start, end) = batch.segments[segment];
                    self.load((set, batch.samples[segment]), (end - start) * width, &mut values)?;
                }
            }
            if known < layers {
                let from = (known > 0).then(|| Prefix { output: tensor(values), layers: known });
                values = model.prefix(&batch.inputs_of(&segments), from, layers).output.to_host().into_owned();
            }
            let mut rest = values.as_slice();
            for segment in segments {
                let (start, end) = batch.segments[segment];
                let sample;
                (sample, rest) = rest.split_at((end - start) * width);
                output[start * width..end * width].copy_from_slice(sample);
                if keep && known < layers {
                    self.store((set, batch.samples[segment]), layers, sample)?;
                }
            }
        }
        Ok(tensor(output))
    }

    fn number_size(&self) -> usize {
        match self.options.dtype {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }

    /// Appends the values of an entry to `values`.
    fn load(&mut self, key: (Set, usize), count: usize, values: &mut Vec<f32>) -> io::Result<()> {
        let missing = || io::Error::other("an entry is missing");
        let mut buffer = Vec::new();
        let bytes = match &self.entries.get(&key).ok_or_else(missing)?.stored {
            Stored::Memory(bytes) => bytes,
            Stored::Disk(offset) => {
                let file = self.file.as_mut().ok_or_else(missing)?;
                buffer.resize(count * if self.options.dtype == Dtype::F32 { 4 } else { 2 }, 0);
                file.seek(SeekFrom::Start(*offset))?;
                file.read_exact(&mut buffer)?;
                &buffer
            }
        };
        match self.options.dtype {
            Dtype::F32 => values.extend(bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number))),
            Dtype::Bf16 => {
                values.extend(bytes.as_chunks().0.iter().map(|number| bf16::from_le_bytes(*number).to_f32()))
            }
        }
        Ok(())
    }

    /// Keeps an entry, in the place of the sample's last one or where there is room.
    fn store(&mut self, key: (Set, usize), layers: usize, values: &[f32]) -> io::Result<()> {
        let size = (values.len() * self.number_size()) as u64;
        let place = match self.entries.get(&key) {
            Some(Entry { stored: Stored::Disk(offset), .. }) => *offset,
            Some(_) => 0,
            None if self.bytes + size > self.options.size => return Ok(()),
            None => {
                self.bytes += size;
                self.bytes - size
            }
        };
        let bytes: Vec<u8> = match self.options.dtype {
            Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        };
        let stored = match self.options.place {
            Place::Disk => {
                let file = match &mut self.file {
                    Some(file) => file,
                    none => none.insert(tempfile::tempfile_in(&self.folder)?),
                };
                file.seek(SeekFrom::Start(place))?;
                file.write_all(&bytes)?;
                Stored::Disk(place)
            }
            Place::Off | Place::Memory => Stored::Memory(bytes),
        };
        self.entries.insert(key, Entry { layers, stored });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use grades_models::random::Random;
    use grades_models::registry;
    use grades_models::source::LoadOptions;
    use grades_tensor::device;

    use super::*;
    use crate::bench::Shape;
    use crate::data::Tokenized;

    fn model() -> Decoder {
        let options = LoadOptions::new(device("cpu").unwrap());
        registry::load(&Shape::Tiny.config(), &Random { seed: 1, std: 0.3 }, options).unwrap()
    }

    /// Samples of different lengths, each of more than the 8 rows from which on products add up in one order.
    fn batch(samples: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for &sample in samples {
            let ids: Vec<u32> = (0..10 + 3 * sample as u32).map(|i| (i * i + 31 * sample as u32) % 256).collect();
            batch.push(
                sample,
                &Tokenized { labels: ids.iter().map(|&id| id.into()).collect(), ids, ..Tokenized::default() },
            );
        }
        batch
    }

    fn options(place: Place) -> Options {
        Options { place, size: 1 << 30, dtype: Dtype::F32 }
    }

    fn values(prefix: &Prefix) -> Vec<f32> {
        prefix.output.to_host().into_owned()
    }

    /// Asks the cache, and compares with the whole computation.
    fn check(cache: &mut PrefixCache, model: &Decoder, layers: usize, samples: &[usize]) {
        let batch = batch(samples);
        let found = cache.prefix(model, layers, Set::Train, &batch, true).unwrap();
        assert_eq!(found.layers, layers);
        assert!(values(&found) == values(&model.prefix(&batch.inputs(), None, layers)), "{layers} layers, {samples:?}");
    }

    #[test]
    fn outputs_are_those_without_a_cache_while_the_prefix_grows_and_shrinks() {
        let (model, folder) = (model(), tempfile::tempdir().unwrap());
        for place in [Place::Memory, Place::Disk] {
            let mut cache = PrefixCache::new(options(place), folder.path());
            check(&mut cache, &model, 1, &[0, 1]);
            let bytes = cache.bytes();
            assert_eq!(bytes, (9 + 12) * 64 * 4);
            check(&mut cache, &model, 1, &[1, 0]);
            check(&mut cache, &model, 2, &[2, 1]);
            // Three depths in one batch: 1, nothing, 2.
            check(&mut cache, &model, 3, &[0, 3, 1]);
            check(&mut cache, &model, 3, &[3, 2, 1, 0]);
            assert_eq!(cache.bytes(), (9 + 12 + 15 + 18) * 64 * 4);
            check(&mut cache, &model, 2, &[0]);
            assert_eq!(cache.bytes(), 9 * 64 * 4);
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn entries_are_used() {
        let (mut first, folder) = (model(), tempfile::tempdir().unwrap());
        let (other, batch) = (model(), batch(&[0, 1]));
        let mut cache = PrefixCache::new(options(Place::Memory), folder.path());
        let whole = cache.prefix(&first, 2, Set::Train, &batch, true).unwrap();
        // Another layer 0, which an entry of one layer and more knows nothing of.
        for parameter in first.parameters_mut().iter_mut().filter(|p| p.name.contains("layers.0.")) {
            let (device, shape) = (parameter.value.device(), parameter.value.shape());
            parameter.value = device.from_host(vec![0.1; parameter.len()], shape);
        }
        let again = cache.prefix(&first, 2, Set::Train, &batch, true).unwrap();
        assert!(values(&again) == values(&whole));
        let grown = cache.prefix(&first, 3, Set::Train, &batch, true).unwrap();
        assert!(values(&grown) == values(&other.prefix(&batch.inputs(), None, 3)));
        // The same indices of another set are other samples.
        let validation = cache.prefix(&first, 3, Set::Validation, &batch, true).unwrap();
        assert!(values(&validation) == values(&first.prefix(&batch.inputs(), None, 3)));
        cache.clear();
        let cleared = cache.prefix(&first, 3, Set::Train, &batch, false).unwrap();
        assert!(values(&cleared) == values(&first.prefix(&batch.inputs(), None, 3)));
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn the_size_is_a_bound_and_bf16_needs_half_of_it() {
        let (model, folder) = (model(), tempfile::tempdir().unwrap());
        for (dtype, kept) in [(Dtype::F32, 9 * 64 * 4), (Dtype::Bf16, (9 + 12) * 64 * 2)] {
            let options = Options { place: Place::Memory, size: 20 * 64 * 4, dtype };
            let mut cache = PrefixCache::new(options, folder.path());
            let batch = batch(&[0, 1]);
            let whole = cache.prefix(&model, 2, Set::Train, &batch, true).unwrap();
            assert_eq!(cache.bytes(), kept);
            let again = cache.prefix(&model, 2, Set::Train, &batch, true).unwrap();
            let mut worst = 0.0_f32;
            for (found, expected) in values(&again).iter().zip(values(&whole)) {
                worst = worst.max((found - expected).abs() / expected.abs());
            }
            // bf16 has 8 significant bits.
            let bound = if dtype == Dtype::Bf16 { 2.0_f32.powi(-9)..=2.0_f32.powi(-8) } else { 0.0..=0.0 };
            assert!(bound.contains(&worst), "{worst}");
        }
    }

    #[test]
    fn a_file_that_fails_turns_the_cache_off() {
        let model = model();
        let mut cache = PrefixCache::new(options(Place::Disk), Path::new("/nowhere"));
        assert!(cache.prefix(&model, 1, Set::Train, &batch(&[0]), true).is_none());
        assert!(cache.take_failure().is_some() && cache.take_failure().is_none());
        assert!(!cache.is_on() && cache.bytes() == 0);
        assert!(cache.prefix(&model, 1, Set::Train, &batch(&[0]), true).is_none());
    }
}
