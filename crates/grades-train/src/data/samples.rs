//! Data sets as samples in tokens.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use grades_models::fields::{named, warn_once};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::encode::{Encode, Tokenized};
use super::error::DataError;
use super::format::{DatasetSpec, Format};
use super::picture::Picture;
use super::record::Record;
use super::sample::Sample;
use super::tokens;
use super::vision::Vision;
use crate::hub::Hub;

/// What happens to a sample with more than `sequence_len` tokens; named as in Axolotl.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExcessLength {
    /// An error that names the row. (Axolotl's default is `drop`; a silent loss of data is worse than a stop.)
    #[default]
    Raise,
    /// The sample is left out and counted.
    Drop,
    /// The sample's end is cut off; a sample whose answer is cut off whole, or a picture in part, is left out and counted.
    Truncate,
}

/// How rows become samples in tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenOptions {
    /// Largest number of tokens of a sample.
    pub sequence_len: usize,
    /// Whether prompts count in the loss as well.
    pub train_on_inputs: bool,
    /// What happens to longer samples.
    pub excess_length: ExcessLength,
    /// Of each set only so many first rows.
    pub max_samples: Option<usize>,
}

/// The samples of all data sets as tokens, in the order of the configuration and of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// The samples.
    pub samples: Vec<Tokenized>,
    /// Of which set each sample is.
    pub sets: Vec<usize>,
    /// How many rows were left out because of their length.
    pub dropped: usize,
    /// How many samples were cut to `sequence_len`.
    pub truncated: usize,
    /// What was warned of while they were encoded.
    pub told: Vec<String>,
}

impl Samples {
    /// How many samples equal an earlier one: its tokens, what of them is learnt, and its pictures.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.is_new().iter().filter(|new| !**new).count()
    }

    /// Leaves these out.
    pub fn deduplicate(&mut self) {
        let is_new = self.is_new();
        let mut kept = is_new.iter();
        self.samples.retain(|_| kept.next().is_none_or(|new| *new));
        let mut kept = is_new.iter();
        self.sets.retain(|_| kept.next().is_none_or(|new| *new));
    }

    fn push(&mut self, set: usize, sample: Tokenized) {
        self.samples.push(sample);
        self.sets.push(set);
    }

    fn is_new(&self) -> Vec<bool> {
        let mut seen = HashSet::with_capacity(self.samples.len());
        // Where pictures are from does not count.
        let pictures = |sample: &Tokenized| -> Vec<(Picture, Vec<Range<usize>>)> {
            sample.pictures.iter().map(|placed| (placed.picture.clone(), placed.tokens.clone())).collect()
        };
        self.samples.iter().map(|sample| seen.insert((&sample.ids, &sample.labels, pictures(sample)))).collect()
    }
}

/// Rows that are encoded at a time, by all threads.
const AT_ONCE: usize = 1 << 14;

/// Reads the data sets and encodes their rows, for a model with `vision` those with pictures too.
///
/// # Errors
/// A file cannot be read, a row does not fit its type, a sample is too long, or nothing is left.
pub fn load(
    specs: &[DatasetSpec],
    encoder: &dyn Encode,
    vision: Option<&Vision>,
    options: TokenOptions,
) -> Result<Samples, DataError> {
    let mut all = Samples::default();
    let hub = Hub::from_env();
    for (set, spec) in specs.iter().enumerate() {
        let format = spec.format().map_err(DataError::Format)?;
        let mut told = Told::default();
        let mut records = spec.source().read(spec.split.as_deref(), &hub)?;
        records.truncate(options.max_samples.unwrap_or(usize::MAX));
        let encode = |record: &Record| Row::of(record, &format, (encoder, vision), options);
        for records in records.chunks(AT_ONCE) {
            // In their order, so that the first row that is wrong is the one that is named, whoever has encoded it.
            let rows: Vec<Result<Row, DataError>> = records.par_iter().map(encode).collect();
            for row in rows {
                let Row { outcome, unread } = row?;
                told.unread.extend(unread);
                match outcome {
                    Outcome::Whole(sample) => all.push(set, sample),
                    Outcome::Cut(sample) => {
                        all.truncated += 1;
                        all.push(set, sample);
                    }
                    Outcome::TooLong => all.dropped += 1,
                    Outcome::Torn => {
                        all.dropped += 1;
                        told.torn += 1;
                    }
                    Outcome::RatedOut => told.rated_out += 1,
                }
            }
        }
        all.told.extend(told.sentences(&spec.path, format.name()));
    }
    all.told.iter().for_each(|sentence| warn_once(sentence.clone()));
    if all.samples.is_empty() {
        return Err(DataError::NothingLeft { dropped: all.dropped, sequence_len: options.sequence_len });
    }
    Ok(all)
}

/// What there is to tell of a set when all of it is read.
#[derive(Debug, Default)]
struct Told {
    unread: BTreeSet<String>,
    rated_out: usize,
    torn: usize,
}

impl Told {
    fn sentences(self, set: &str, kind: &str) -> Vec<String> {
        let torn = format!("{set}: {} rows are left out, as cutting them would cut a picture", self.torn);
        let rated_out =
            format!("{set}: {} rows are left out, as each of their turns has a rating below 1", self.rated_out);
        let counted = [(self.torn, torn), (self.rated_out, rated_out)].into_iter().filter(|(count, _)| *count > 0);
        unread(set, kind, self.unread).into_iter().chain(counted.map(|(_, sentence)| sentence)).collect()
    }
}

/// What becomes of a row.
pub(super) struct Row {
    pub(super) outcome: Outcome,
    /// Its columns that its type has not read.
    unread: Vec<String>,
}

pub(super) enum Outcome {
    Whole(Tokenized),
    /// The beginning of a sample.
    Cut(Tokenized),
    /// Left out: too long, or cut before anything is learnt.
    TooLong,
    /// Left out: a picture would be cut.
    Torn,
    /// Left out: by its ratings.
    RatedOut,
}

impl Row {
    /// Encodes one.
    ///
    /// # Errors
    /// It does not fit its type, or is too long.
    pub(super) fn of(
        record: &Record,
        format: &Format,
        (encoder, vision): (&dyn Encode, Option<&Vision>),
        options: TokenOptions,
    ) -> Result<Self, DataError> {
        let sample = format.sample(record)?;
        let unread = format.unread(record)?.into_iter().map(str::to_owned).collect();
        let row = |outcome| Ok(Self { outcome, unread });
        if sample == Sample::LeftOut {
            return row(Outcome::RatedOut);
        }
        let mut tokens = tokens::tokenize(&sample, encoder, vision, options.train_on_inputs, &record.place)
            .map_err(|message| record.error(message))?;
        let most = options.sequence_len;
        let is_long = tokens.ids.len() > most;
        if is_long {
            match options.excess_length {
                ExcessLength::Raise => {
                    let (place, tokens) = (record.place.to_string(), tokens.ids.len());
                    return Err(DataError::TooLong { place, tokens, sequence_len: most });
                }
                ExcessLength::Drop => return row(Outcome::TooLong),
                ExcessLength::Truncate if !tokens.pictures.iter().all(|one| one.is_within(most)) => {
                    return row(Outcome::Torn);
                }
                ExcessLength::Truncate => tokens.truncate(most),
            }
        }
        match (tokens.label_count(), is_long) {
            (0, true) => row(Outcome::TooLong),
            (0, false) => Err(record.error("the sample has no token to learn; remove the row or fill in its answer")),
            (_, true) => row(Outcome::Cut(tokens)),
            (_, false) => row(Outcome::Whole(tokens)),
        }
    }
}

/// Names the columns of a set that its type has not read.
pub(crate) fn tell_unread(set: &str, kind: &str, columns: BTreeSet<String>) {
    unread(set, kind, columns).into_iter().for_each(warn_once);
}

fn unread(set: &str, kind: &str, columns: BTreeSet<String>) -> Option<String> {
    let columns: Vec<String> = columns.into_iter().collect();
    (!columns.is_empty()).then(|| format!("{set}: of the columns {} not read by type `{kind}`", named(&columns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ids: &[u32], learnt: usize) -> Tokenized {
        let labels = ids.iter().enumerate().map(|(at, id)| if at < learnt { -100 } else { i64::from(*id) }).collect();
        Tokenized { ids: ids.to_vec(), labels, pictures: Vec::new() }
    }

    /// Of samples that are the same the first stays; another mask is another sample.
    #[test]
    fn duplicates_are_what_trains_the_same() {
        let samples = vec![sample(&[1, 2, 3], 1), sample(&[1, 2], 1), sample(&[1, 2, 3], 1), sample(&[1, 2, 3], 2)];
        let mut all = Samples { samples: samples.clone(), sets: vec![0, 0, 1, 1], ..Samples::default() };
        assert_eq!(all.duplicates(), 1);
        all.deduplicate();
        assert_eq!(all.samples, [&samples[0], &samples[1], &samples[3]].map(Clone::clone));
        assert_eq!((all.duplicates(), all.sets), (0, vec![0, 0, 1]));
    }
}
