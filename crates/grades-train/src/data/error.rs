//! What can be wrong with data.

use std::io;
use std::path::PathBuf;

use crate::hub::error::HubError;

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
    #[error("{}: this format is not read; convert the file to jsonl, json, csv, a tar of webdataset (each also as .gz or .zst) or parquet", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
    },
    /// A set has no file for a split.
    #[error(
        "{}: there is no file for split `{split}` ({split}.jsonl, .json, .csv or .tar, also .gz or .zst, or .parquet); there is {found}",
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
    /// Two files of questions would have one name among results.
    #[error("{} and {} would both be called {name}; rename one of the files", tasks[0], tasks[1])]
    SameName {
        /// The name.
        name: String,
        /// The files as given.
        tasks: [String; 2],
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
