//! Outputs of a language model's frozen prefix by sample, so that later epochs start above it.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use grades_models::Decoder;
use grades_models::model::Prefix;

use super::outputs::{Home, Options, Outputs, Source, rows};
use crate::data::Batch;

/// The samples that an index counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// Those of training.
    Train,
    /// Those kept back for validation.
    Validation,
}

/// The cache of a run.
#[derive(Debug)]
pub struct PrefixCache {
    outputs: Outputs,
}

/// The segments of a batch.
struct Segments<'a> {
    model: &'a Decoder,
    batch: &'a Batch,
}

impl Source for Segments<'_> {
    type Error = Infallible;

    fn count(&self, segment: usize, _: usize) -> usize {
        let (start, end) = self.batch.segments[segment];
        (end - start) * self.model.sizes().hidden_size
    }

    /// Its file has no name.
    fn fingerprint(&self, _: usize) -> u128 {
        0
    }

    fn run(&mut self, items: &[usize], known: usize, values: Vec<f32>, layers: usize) -> Result<Vec<f32>, Infallible> {
        let width = self.model.sizes().hidden_size;
        let from = (known > 0).then(|| Prefix { output: rows(self.model, values, width), layers: known });
        Ok(self.model.prefix(&self.batch.inputs_of(items), from, layers).output.to_host().into_owned())
    }
}

impl PrefixCache {
    /// An empty cache, whose file would be in `folder`, without a name.
    #[must_use]
    pub fn new(options: Options, folder: &Path) -> Self {
        Self { outputs: Outputs::new(options, Home::Unnamed(folder.into())) }
    }

    /// Whether it keeps anything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.outputs.is_on()
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.outputs.bytes()
    }

    /// Forgets everything: the weights of the prefix have changed.
    pub fn clear(&mut self) {
        self.outputs.clear();
    }

    /// Why the cache has turned itself off, once.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.outputs.take_failure()
    }

    /// The output of the model's first `layers` layers for a batch, computed only as far as it is not there; `None` where
    /// the cache is off or there is no such layer. With `keep` the outputs are kept for the next time.
    pub fn prefix(&mut self, model: &Decoder, layers: usize, set: Set, batch: &Batch, keep: bool) -> Option<Prefix> {
        self.outputs.up_to(layers);
        // What comes of pictures is kept by picture.
        if !self.is_on() || layers == 0 || !batch.pictures.is_empty() {
            return None;
        }
        let keys: Vec<u128> =
            batch.samples.iter().map(|&sample| u128::from(set == Set::Train) << 64 | sample as u128).collect();
        let Ok(outputs) = self.outputs.of(&keys, keep, &mut Segments { model, batch });
        Some(Prefix { output: rows(model, outputs.concat(), model.sizes().hidden_size), layers })
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
    use crate::train::outputs::{Dtype, Place};

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
        check(&mut cache, &model, 1, &[0]);
        assert!(cache.take_failure().is_some() && cache.take_failure().is_none());
        assert!(!cache.is_on() && cache.bytes() == 0);
        assert!(cache.prefix(&model, 1, Set::Train, &batch(&[0]), true).is_none());
    }
}
