//! What a run is validated on: samples kept back, or sets of their own, each with its name.

use std::collections::BTreeMap;

use super::error::TrainError;
use super::tokenised::{self, Encoding};
use crate::config::Config;
use crate::data::{Batch, DataError, DatasetSpec, Held, Tokenized, Vision, batch};

/// Batches to validate on.
#[derive(Clone, Debug, Default)]
pub struct Validation {
    /// All of them.
    pub batches: Vec<Batch>,
    /// The names of the sets that they are of, with how many each has, where there are several.
    pub sets: Vec<(String, usize)>,
    /// Samples whose prompts the model is asked.
    pub(super) asked: Vec<Tokenized>,
    pub(super) samples: usize,
    pub(super) dropped: usize,
    pub(super) truncated: usize,
}

/// Losses per predicted token: over all, and by set where there are several.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Losses {
    pub(super) all: Option<f64>,
    pub(super) by_set: Option<BTreeMap<String, f64>>,
}

impl From<Vec<Batch>> for Validation {
    fn from(batches: Vec<Batch>) -> Self {
        let samples = batches.iter().map(|batch| batch.samples.len()).sum();
        Self { batches, samples, ..Self::default() }
    }
}

impl Validation {
    /// Of samples that were kept back.
    ///
    /// # Errors
    /// They lie in a file that cannot be read.
    pub(super) fn of_samples(samples: &[Held], config: &Config) -> Result<Self, DataError> {
        let batches = batch::in_order(samples, 0..samples.len(), config.micro_batch_size, config.packing())?;
        Ok(Self { asked: spread(samples, config.generate_samples)?, ..batches.into() })
    }

    /// Of `test_datasets`.
    pub(super) fn of_sets(
        config: &Config,
        encoding: Encoding<'_>,
        vision: Option<&Vision>,
    ) -> Result<Self, TrainError> {
        let specs = config.test_datasets();
        let loaded = tokenised::load(config, &specs, encoding, vision)?;
        let mut all = Self {
            asked: spread(&loaded.samples, config.generate_samples)?,
            samples: loaded.samples.len(),
            dropped: loaded.dropped,
            truncated: loaded.truncated,
            ..Self::default()
        };
        let mut start = 0;
        for (set, name) in names(&specs).into_iter().enumerate() {
            let end = start + loaded.sets.iter().filter(|of| **of == set).count();
            let batches = batch::in_order(&loaded.samples, start..end, config.micro_batch_size, config.packing())?;
            all.sets.push((name, batches.len()));
            all.batches.extend(batches);
            start = end;
        }
        if all.sets.len() < 2 {
            all.sets.clear();
        }
        Ok(all)
    }

    /// The losses of what `scores` gives for a batch: the sum of its negative log-likelihoods.
    pub(super) fn losses(
        &self,
        mut scores: impl FnMut(&Batch) -> Result<f64, TrainError>,
    ) -> Result<Losses, TrainError> {
        let sums: Vec<(f64, usize)> = self
            .batches
            .iter()
            .map(|batch| Ok((scores(batch)?, batch.label_count)))
            .collect::<Result<_, TrainError>>()?;
        let mean = |sums: &[(f64, usize)]| {
            let (sum, labels) = sums.iter().fold((0.0, 0), |(sum, labels), one| (sum + one.0, labels + one.1));
            (labels > 0).then(|| sum / labels as f64)
        };
        let mut rest = sums.as_slice();
        let mut by_set = BTreeMap::new();
        for (name, batches) in &self.sets {
            let (of, others) = rest.split_at(*batches);
            by_set.extend(mean(of).map(|loss| (name.clone(), loss)));
            rest = others;
        }
        Ok(Losses { all: mean(&sums), by_set: Some(by_set).filter(|by_set| !by_set.is_empty()) })
    }
}

/// So many samples, in equal distances from the first on, so that they are of every set.
fn spread(samples: &[Held], count: usize) -> Result<Vec<Tokenized>, DataError> {
    let count = count.min(samples.len());
    (0..count).map(|at| Ok(samples[at * samples.len() / count].tokens()?.into_owned())).collect()
}

/// What sets are called in logs: the last part of their path without its ending, with configuration and split where these tell
/// them apart, else with a number.
fn names(specs: &[DatasetSpec]) -> Vec<String> {
    let short = |spec: &DatasetSpec| {
        let last = spec.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        last.split('.').find(|part| !part.is_empty()).unwrap_or("set").to_owned()
    };
    let with = |name: String, more: Option<&str>| more.map_or(name.clone(), |more| format!("{name}:{more}"));
    let named = |spec: &DatasetSpec| with(short(spec), spec.name.as_deref());
    let split = |spec: &DatasetSpec| with(named(spec), spec.split.as_deref());
    let mut names: Vec<String> = specs.iter().map(short).collect();
    for longer in [&named as &dyn Fn(&DatasetSpec) -> String, &split] {
        let before = names.clone();
        let is_twice = |name: &String| before.iter().filter(|other| *other == name).count() > 1;
        for (name, spec) in names.iter_mut().zip(specs) {
            if is_twice(name) {
                *name = longer(spec);
            }
        }
    }
    let before = names.clone();
    for (at, name) in names.iter_mut().enumerate() {
        if before.iter().filter(|other| *other == name).count() > 1 {
            *name = format!("{name}:{}", at + 1);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_names_of_their_own() {
        let spec = |path: &str, name: Option<&str>, split: &str| DatasetSpec {
            path: path.to_owned(),
            name: name.map(str::to_owned),
            split: Some(split.to_owned()),
            ..DatasetSpec::default()
        };
        let of = |specs: &[DatasetSpec]| names(specs).join(" ");
        assert_eq!(of(&[spec("data/piqa", None, "test"), spec("b/chat.jsonl.gz", None, "test")]), "piqa chat");
        let arc = |name, split| spec("allenai/ai2_arc", Some(name), split);
        assert_eq!(
            of(&[arc("ARC-Easy", "test"), arc("ARC-Challenge", "test")]),
            "ai2_arc:ARC-Easy ai2_arc:ARC-Challenge"
        );
        assert_eq!(of(&[arc("E", "test"), arc("E", "validation")]), "ai2_arc:E:test ai2_arc:E:validation");
        let same = spec("a.jsonl", None, "test");
        assert_eq!(of(&[same.clone(), same]), "a:test:1 a:test:2");
    }

    #[test]
    fn what_is_asked_is_spread_over_all_samples() {
        let samples: Vec<Held> = (0..7).map(|id| Tokenized { ids: vec![id], ..Tokenized::default() }.into()).collect();
        let of = |count| spread(&samples, count).unwrap().iter().map(|sample| sample.ids[0]).collect::<Vec<_>>();
        assert_eq!((of(0), of(1), of(3)), (vec![], vec![0], vec![0, 2, 4]));
        assert_eq!(of(9), [0, 1, 2, 3, 4, 5, 6]);
        assert!(spread(&[], 3).unwrap().is_empty());
    }

    /// The loss on all is over all tokens, not over sets.
    #[test]
    fn losses_are_per_token() {
        let batch = |label_count| Batch { label_count, ..Batch::default() };
        let sets = vec![("a".to_owned(), 2), ("b".to_owned(), 1)];
        let validation = Validation { batches: vec![batch(1), batch(3), batch(6)], sets, ..Validation::default() };
        let losses =
            validation.losses(|batch| Ok(batch.label_count as f64 * if batch.label_count == 6 { 2.0 } else { 1.0 }));
        let losses = losses.unwrap();
        assert_eq!(losses.all, Some(16.0 / 10.0));
        assert_eq!(
            losses.by_set.unwrap().into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), 1.0), ("b".to_owned(), 2.0)]
        );
        let one = Validation { sets: Vec::new(), ..validation };
        assert_eq!(one.losses(|_| Ok(5.0)).unwrap(), Losses { all: Some(1.5), by_set: None });
        assert_eq!(Validation::default().losses(|_| Ok(1.0)).unwrap(), Losses::default());
    }
}
