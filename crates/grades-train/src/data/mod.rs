//! From data sets to batches of tokens: source (files, or the Hub) → format → tokens → packing → batches.

pub mod batch;
pub mod conversation;
pub(crate) mod files;
pub mod format;
mod json;
pub mod packing;
mod parquet;
pub mod source;
pub mod split;
pub mod template;
pub mod tokens;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use grades_models::fields::{named, warn_once};
use serde::{Deserialize, Serialize};

pub use batch::{Batch, Loader, LoaderOptions};
pub use format::{DatasetSpec, Format};
pub use source::{Record, Source};
pub use tokens::{Around, Encode, Encoded, NO_LOSS, Tokenized};

use crate::hub::{Hub, HubError};

/// What happens to a sample with more than `sequence_len` tokens; named as in Axolotl.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExcessLength {
    /// An error that names the row. (Axolotl's default is `drop`; a silent loss of data is worse than a stop.)
    #[default]
    Raise,
    /// The sample is left out and counted.
    Drop,
    /// The sample's end is cut off; a sample whose answer is cut off whole is left out and counted.
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

/// Reads the data sets and encodes their rows.
///
/// # Errors
/// A file cannot be read, a row does not fit its type, a sample is too long, or nothing is left.
pub fn load(specs: &[DatasetSpec], encoder: &dyn Encode, options: TokenOptions) -> Result<Samples, DataError> {
    let mut all = Samples::default();
    let hub = Hub::from_env();
    for spec in specs {
        let format = spec.format().map_err(DataError::Format)?;
        let mut unread: BTreeSet<String> = BTreeSet::new();
        for record in spec.source().read(spec.split.as_deref(), &hub)? {
            let sample = format.sample(&record)?;
            unread.extend(format.unread(&record)?.into_iter().map(str::to_owned));
            let mut tokens =
                tokens::tokenize(&sample, encoder, options.train_on_inputs).map_err(|message| record.error(message))?;
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

/// What can be wrong with training or evaluation data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be read.
    #[error("{}: the file cannot be read ({source})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is neither a file nor a folder.
    #[error(
        "{}: there is no such file or folder; correct the path (a data set of the Hugging Face Hub is written owner/name)",
        path.display()
    )]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// The file's format is not read.
    #[error("{}: this format is not read; convert the file to jsonl, json, csv or parquet", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
    },
    /// A set has no file for a split.
    #[error(
        "{}: there is no file for split `{split}` ({split}.jsonl, .json, .csv or .parquet); there is {found}",
        path.display()
    )]
    NoSuchSplit {
        /// The folder, or the set's name.
        path: PathBuf,
        /// The split's name.
        split: String,
        /// The files that are there.
        found: String,
    },
    /// It is not said which configuration of a set is meant.
    #[error("{}: the set has the configurations {found}; give one of them as `name`", path.display())]
    NameMissing {
        /// The folder, or the set's name.
        path: PathBuf,
        /// The configurations that have the split.
        found: String,
    },
    /// A set has no such configuration.
    #[error("{}: no configuration `{name}` has the split; those that have it are {found}", path.display())]
    NoSuchName {
        /// The folder, or the set's name.
        path: PathBuf,
        /// The configuration as given.
        name: String,
        /// The configurations that have the split.
        found: String,
    },
    /// Some of the files that make a split are not there.
    #[error("{}: of the split's {count} files only {found} are there; complete the folder", first.display())]
    PartsMissing {
        /// One of those that are there.
        first: PathBuf,
        /// How many there should be.
        count: usize,
        /// How many there are.
        found: usize,
    },
    /// A folder has two files for a split.
    #[error("{} and {} are both files of the split; give the path of one of them", first.display(), second.display())]
    AmbiguousSplit {
        /// One file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// A set of the Hugging Face Hub cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A split is misspelt.
    #[error(
        "split `{split}` is not understood; write it as train, train[:1000], train[10%:20%] or train[:10]+test[-10:]"
    )]
    BadSplit {
        /// The split as given.
        split: String,
    },
    /// A split selects nothing.
    #[error("{}: split `{split}` selects none of the {rows} rows", path.display())]
    EmptySplit {
        /// The file.
        path: PathBuf,
        /// The split as given.
        split: String,
        /// Rows of the file.
        rows: usize,
    },
    /// A file as a whole is not what its name says.
    #[error("{}: the file {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file is empty.
    #[error("{}: the file has no rows", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A row is not usable.
    #[error("{place}: {message}")]
    Row {
        /// File and line.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A row lacks a column.
    #[error("{place}: the row has no column `{column}`; it has {found}")]
    MissingColumn {
        /// File and line.
        place: String,
        /// The missing column.
        column: String,
        /// The columns that are there.
        found: String,
    },
    /// A sample has too many tokens.
    #[error(
        "{place}: the sample has {tokens} tokens, more than sequence_len {sequence_len}; raise sequence_len, or set \
         excess_length_strategy to drop or truncate"
    )]
    TooLong {
        /// File and line.
        place: String,
        /// The sample's tokens.
        tokens: usize,
        /// The limit.
        sequence_len: usize,
    },
    /// All rows were left out.
    #[error(
        "all {dropped} rows were left out because they have more than sequence_len {sequence_len} tokens; raise it"
    )]
    NothingLeft {
        /// How many rows.
        dropped: usize,
        /// The limit.
        sequence_len: usize,
    },
    /// The entry of a data set is inconsistent.
    #[error("{0}")]
    Format(String),
    /// The validation set would leave nothing to train on.
    #[error("val_set_size {wanted} takes all of the {samples} samples; lower it")]
    ValidationTakesAll {
        /// Samples wanted for validation.
        wanted: usize,
        /// Samples there are.
        samples: usize,
    },
    /// A task that is read from a folder alone, without the folder.
    #[error(
        "the questions of {task} are your own; give the folder that holds {task}/ (--data-dir), or name a file of questions as the task"
    )]
    NoDataDir {
        /// The task's name.
        task: String,
    },
    /// A task's name is unknown.
    #[error("there is no task `{name}`; the tasks are {known}, and files such as questions.jsonl")]
    UnknownTask {
        /// The name as given.
        name: String,
        /// The names there are.
        known: String,
    },
}
