//! Data sets as samples in tokens.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use grades_models::fields::{named, warn_once};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::bad_rows::{BadRows, OnBadRow};
use super::encode::{Encode, Tokenized};
use super::error::DataError;
use super::format::{DatasetSpec, Format};
use super::held::{self, Held};
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
    /// Whether of a conversation only the last learnt turn is learnt.
    pub train_on_last_turn_only: bool,
    /// What happens at a row that cannot be used.
    pub on_bad_row: OnBadRow,
}

/// The samples of all data sets as tokens, in the order of the configuration and of the files.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The samples.
    pub samples: Vec<Held>,
    /// Of which set each sample is.
    pub sets: Vec<usize>,
    /// And of which row: a conversation may be several samples, which belong together when some are kept back.
    pub rows: Vec<usize>,
    /// Of each a hash of its tokens and of which of them are learnt.
    pub hashes: Vec<u128>,
    /// How many rows were left out because of their length.
    pub dropped: usize,
    /// How many samples were cut to `sequence_len`.
    pub truncated: usize,
    /// How many rows were left out because they cannot be used.
    pub skipped: usize,
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
        for of in [&mut self.sets, &mut self.rows] {
            let mut kept = is_new.iter();
            of.retain(|_| kept.next().is_none_or(|new| *new));
        }
        let mut kept = is_new.iter();
        self.hashes.retain(|_| kept.next().is_none_or(|new| *new));
    }

    /// The samples by row, each with its set.
    #[must_use]
    pub fn by_row(self) -> Vec<Vec<(usize, Held)>> {
        let mut rows: Vec<Vec<(usize, Held)>> = Vec::new();
        let mut last = None;
        for (row, sample) in self.rows.into_iter().zip(self.sets.into_iter().zip(self.samples)) {
            match rows.last_mut().filter(|_| last == Some(row)) {
                Some(of_row) => of_row.push(sample),
                None => rows.push(vec![sample]),
            }
            last = Some(row);
        }
        rows
    }

    pub(super) fn push(&mut self, (set, row): (usize, usize), sample: Held, hash: u128) {
        self.samples.push(sample);
        self.sets.push(set);
        self.rows.push(row);
        self.hashes.push(hash);
    }

    /// All of them, read where they are.
    #[cfg(test)]
    pub(super) fn tokens(&self) -> Vec<Tokenized> {
        self.samples.iter().map(|sample| sample.tokens().unwrap().into_owned()).collect()
    }

    fn is_new(&self) -> Vec<bool> {
        let mut seen = HashSet::with_capacity(self.samples.len());
        // Where pictures are from does not count.
        let pictures = |sample: &Held| -> Vec<(Picture, Vec<Range<usize>>)> {
            sample.pictures().iter().map(|placed| (placed.picture.clone(), placed.tokens.clone())).collect()
        };
        self.samples.iter().zip(&self.hashes).map(|(sample, hash)| seen.insert((*hash, pictures(sample)))).collect()
    }
}

/// Rows that are encoded at a time, by all threads, and no more are in memory than twice these.
const AT_ONCE: usize = 1 << 10;

/// Takes a sample with its bytes, as a file has them, and says where it is from now on.
pub type Keep<'a> = dyn FnMut(Tokenized, &[u8]) -> Result<Held, DataError> + 'a;

/// Reads the data sets and encodes their rows, for a model with `vision` those with pictures too, into memory.
///
/// # Errors
/// A file cannot be read, a row does not fit its type, a sample is too long, or nothing is left.
pub fn load(
    specs: &[DatasetSpec],
    encoder: &dyn Encode,
    vision: Option<&Vision>,
    options: TokenOptions,
) -> Result<Samples, DataError> {
    load_into(specs, encoder, vision, options, &mut |sample, _| Ok(sample.into()))
}

/// The same, each sample to where `keep` puts it.
///
/// # Errors
/// A file cannot be read, a row does not fit its type, a sample is too long, or nothing is left.
pub fn load_into(
    specs: &[DatasetSpec],
    encoder: &dyn Encode,
    vision: Option<&Vision>,
    options: TokenOptions,
    keep: &mut Keep<'_>,
) -> Result<Samples, DataError> {
    let mut all = Samples::default();
    let mut take = |all: &mut Samples, of: (usize, usize), sample: Tokenized| {
        let bytes = held::bytes(&sample);
        all.push(of, keep(sample, &bytes)?, XxHash3_128::oneshot(&bytes));
        Ok::<_, DataError>(())
    };
    let mut row_number = 0;
    for (set, spec) in specs.iter().enumerate() {
        let format = spec.format().map_err(DataError::Format)?;
        let (mut told, mut bad) = (Told::default(), BadRows::new(options.on_bad_row));
        let records = spec.source().rows(spec.split.as_deref(), Hub::from_env())?;
        let mut records = records.take(options.max_samples.unwrap_or(usize::MAX));
        let encode = |record: Result<Record, DataError>| {
            record.and_then(|record| Row::of(&record, &format, (encoder, vision), options))
        };
        let mut next = || records.by_ref().take(AT_ONCE).collect::<Vec<_>>();
        let mut ready = next();
        while !ready.is_empty() {
            // The next are read while these are encoded. In their order, so that the first row that is wrong is the one that is
            // named, whoever has encoded it.
            let (rows, behind) =
                rayon::join(|| ready.into_par_iter().map(encode).collect::<Vec<Result<Row, DataError>>>(), &mut next);
            ready = behind;
            for row in rows {
                let Some(Row { outcomes, unread }) = bad.pass(row)? else { continue };
                told.unread.extend(unread);
                told.note_parts(outcomes.len());
                row_number += 1;
                for outcome in outcomes {
                    match outcome {
                        Outcome::Whole(sample) => take(&mut all, (set, row_number), sample)?,
                        Outcome::Cut(sample) => {
                            all.truncated += 1;
                            take(&mut all, (set, row_number), sample)?;
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
        }
        all.skipped += bad.count;
        all.told.extend(bad.sentences(&spec.path));
        all.told.extend(told.sentences(&spec.path, format.name()));
    }
    all.told.iter().for_each(|sentence| warn_once(sentence.clone()));
    if all.samples.is_empty() && all.skipped > 0 && all.dropped == 0 {
        let problem =
            "all rows are bad ones, which `on_bad_row: skip` leaves out; the warnings say what is wrong with them";
        return Err(DataError::Format(problem.to_owned()));
    }
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
    /// Conversations that are several samples, and how many these are.
    parted: (usize, usize),
}

impl Told {
    fn note_parts(&mut self, samples: usize) {
        if samples > 1 {
            self.parted.0 += 1;
            self.parted.1 += samples;
        }
    }

    fn sentences(self, set: &str, kind: &str) -> Vec<String> {
        let torn = format!("{set}: {} rows are left out, as cutting them would cut a picture", self.torn);
        let rated_out =
            format!("{set}: {} rows are left out, as each of their turns has a rating below 1", self.rated_out);
        let (conversations, samples) = self.parted;
        let parted = format!(
            "{set}: {conversations} conversations become {samples} samples, as the chat template writes earlier turns otherwise than the \
             last one, and each learnt turn is shown as it was the last; `train_on_last_turn_only: true` makes it one each"
        );
        let counted = [(self.torn, torn), (conversations, parted), (self.rated_out, rated_out)]
            .into_iter()
            .filter(|(count, _)| *count > 0);
        unread(set, kind, self.unread).into_iter().chain(counted.map(|(_, sentence)| sentence)).collect()
    }
}

/// What becomes of a row.
pub(super) struct Row {
    /// What becomes of its samples: one, or of a conversation several.
    pub(super) outcomes: Vec<Outcome>,
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
        let sample = match format.sample(record)? {
            Sample::Conversation(conversation) if options.train_on_last_turn_only => {
                Sample::Conversation(conversation.only_last())
            }
            sample => sample,
        };
        let unread = format.unread(record)?.into_iter().map(str::to_owned).collect();
        if sample == Sample::LeftOut {
            return Ok(Self { outcomes: vec![Outcome::RatedOut], unread });
        }
        let samples = tokens::tokenize(&sample, encoder, vision, options.train_on_inputs, &record.place)
            .map_err(|message| record.error(message))?;
        let outcomes =
            samples.into_iter().map(|sample| Outcome::of(sample, record, options)).collect::<Result<_, _>>()?;
        Ok(Self { outcomes, unread })
    }
}

impl Outcome {
    /// What becomes of a sample of a row.
    pub(super) fn of(mut tokens: Tokenized, record: &Record, options: TokenOptions) -> Result<Self, DataError> {
        let most = options.sequence_len;
        let is_long = tokens.ids.len() > most;
        if is_long {
            match options.excess_length {
                ExcessLength::Raise => {
                    let (place, tokens) = (record.place.to_string(), tokens.ids.len());
                    return Err(DataError::TooLong { place, tokens, sequence_len: most });
                }
                ExcessLength::Drop => return Ok(Self::TooLong),
                ExcessLength::Truncate if !tokens.pictures.iter().all(|one| one.is_within(most)) => {
                    return Ok(Self::Torn);
                }
                ExcessLength::Truncate => tokens.truncate(most),
            }
        }
        match (tokens.label_count(), is_long) {
            (0, true) => Ok(Self::TooLong),
            (0, false) => Err(record.error("the sample has no token to learn; remove the row or fill in its answer")),
            (_, true) => Ok(Self::Cut(tokens)),
            (_, false) => Ok(Self::Whole(tokens)),
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
        let (sets, rows) = (vec![0, 0, 1, 1], vec![1, 1, 2, 3]);
        let mut all = Samples::default();
        for ((set, row), sample) in sets.into_iter().zip(rows).zip(&samples) {
            all.push((set, row), sample.clone().into(), XxHash3_128::oneshot(&held::bytes(sample)));
        }
        let tokens = |held: &Held| held.tokens().unwrap().into_owned();
        assert_eq!(all.duplicates(), 1);
        all.deduplicate();
        assert_eq!(all.samples.iter().map(tokens).collect::<Vec<_>>(), [0, 1, 3].map(|at: usize| samples[at].clone()));
        assert_eq!((all.duplicates(), &all.sets), (0, &vec![0, 0, 1]));
        let by_row = all.by_row();
        assert_eq!(by_row.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((by_row[1][0].0, tokens(&by_row[1][0].1)), (1, samples[3].clone()));
    }
}
