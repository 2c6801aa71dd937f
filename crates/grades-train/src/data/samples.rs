//! Data sets as samples in tokens.

use std::collections::BTreeSet;

use grades_models::fields::{named, warn_once};
use serde::{Deserialize, Serialize};

use super::encode::{Encode, Tokenized};
use super::error::DataError;
use super::format::DatasetSpec;
use super::sample::Sample;
use super::tokens;
use super::vision::Vision;
use crate::hub::Hub;

/// What happens to a sample with more than `sequence_len` tokens; named as in Axolotl.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// How samples become tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenOptions {
    /// Largest number of tokens of a sample.
    pub sequence_len: usize,
    /// Whether prompts count in the loss as well.
    pub train_on_inputs: bool,
    /// What happens to longer samples.
    pub excess_length: ExcessLength,
}

/// The samples of all data sets as tokens, in the order of the configuration and of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// The samples.
    pub samples: Vec<Tokenized>,
    /// How many rows were left out because of their length.
    pub dropped: usize,
    /// How many samples were cut to `sequence_len`.
    pub truncated: usize,
}

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
    for spec in specs {
        let format = spec.format().map_err(DataError::Format)?;
        let mut unread: BTreeSet<String> = BTreeSet::new();
        let (mut rated_out, mut torn) = (0, 0);
        for record in spec.source().read(spec.split.as_deref(), &hub)? {
            let sample = format.sample(&record)?;
            unread.extend(format.unread(&record)?.into_iter().map(str::to_owned));
            if sample == Sample::LeftOut {
                rated_out += 1;
                continue;
            }
            let mut tokens = tokens::tokenize(&sample, encoder, vision, options.train_on_inputs, &record.place)
                .map_err(|message| record.error(message))?;
            if tokens.ids.len() > options.sequence_len {
                match options.excess_length {
                    ExcessLength::Raise => {
                        return Err(DataError::TooLong {
                            place: record.place.to_string(),
                            tokens: tokens.ids.len(),
                            sequence_len: options.sequence_len,
                        });
                    }
                    ExcessLength::Drop => {
                        all.dropped += 1;
                        continue;
                    }
                    ExcessLength::Truncate
                        if !tokens.pictures.iter().all(|one| one.is_within(options.sequence_len)) =>
                    {
                        all.dropped += 1;
                        torn += 1;
                        continue;
                    }
                    ExcessLength::Truncate => {
                        tokens.truncate(options.sequence_len);
                        if tokens.label_count() == 0 {
                            all.dropped += 1;
                            continue;
                        }
                        all.truncated += 1;
                    }
                }
            }
            if tokens.label_count() == 0 {
                return Err(record.error("the sample has no token to learn; remove the row or fill in its answer"));
            }
            all.samples.push(tokens);
        }
        tell_unread(&spec.path, format.name(), unread);
        if torn > 0 {
            warn_once(format!("{}: {torn} rows are left out, as cutting them would cut a picture", spec.path));
        }
        if rated_out > 0 {
            warn_once(format!(
                "{}: {rated_out} rows are left out, as each of their turns has a rating below 1",
                spec.path
            ));
        }
    }
    if all.samples.is_empty() {
        return Err(DataError::NothingLeft { dropped: all.dropped, sequence_len: options.sequence_len });
    }
    Ok(all)
}

/// Names the columns of a set that its type has not read.
pub(crate) fn tell_unread(set: &str, kind: &str, columns: BTreeSet<String>) {
    if !columns.is_empty() {
        let columns: Vec<String> = columns.into_iter().collect();
        warn_once(format!("{set}: of the columns {} not read by type `{kind}`", named(&columns)));
    }
}
