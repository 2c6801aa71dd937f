//! `config.yaml`: read, overridden from the command line, checked, and written back whole.
//!
//! Two stages: `raw` is YAML as it was written, with the overrides applied; `resolved` is every option with its value
//! and the one place where options are declared; `validation` says what is refused. Paths in a config are relative to the current directory, as in
//! Axolotl.

mod averaging;
mod chat;
mod derived;
mod evaluation;
mod forms;
mod hub;
mod interruptions;
mod learning_rate;
mod lora;
mod machine;
mod model;
mod optimizer;
mod other_names;
mod pictures;
mod preference;
mod raw;
mod report_to;
mod resolved;
mod save_steps;
mod save_strategy;
pub mod schema;
mod size;
mod sources;
mod validation;
mod variants;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use averaging::Averaging;
pub use hub::HubStrategy;
pub use interruptions::{OnNonfinite, Resume};
pub use learning_rate::LearningRate;
pub use lora::{Adapter, TargetModules};
pub use machine::{Precision, Threads};
pub use model::{Init, Model};
pub use optimizer::{OptimArgs, Optimizer};
pub use pictures::ImageBackend;
pub use preference::{DpoLossType, Rl};
pub(crate) use raw::without_nulls;
pub(crate) use report_to::tracking_uri_problem;
pub use report_to::{ReportTo, Tracker};
pub use resolved::Config;
pub use save_steps::SaveSteps;
pub use save_strategy::{BestMetric, BestModel, SaveStrategy, Saves};
pub use size::ByteSize;
pub use sources::Shares;
pub use variants::Variants;

impl Config {
    /// Reads `path`, applies `overrides` (`key=value`, dotted for nested keys, lists by index, values in YAML), and
    /// checks the result.
    ///
    /// # Errors
    /// The file cannot be read or is not YAML, an option is unknown, of the wrong type, not supported yet, or out of its
    /// range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, overrides).map_err(|error| error.of_file(path))
    }

    /// As [`load`](Self::load), from text.
    ///
    /// # Errors
    /// As there.
    pub fn parse(yaml: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut tree = raw::parse(yaml)?;
        for text in overrides {
            raw::apply(&mut tree, text)?;
        }
        let mut config = raw::resolve(tree)?;
        config.tell_sets();
        config.validate()?;
        Ok(config)
    }

    /// The config with every option, as YAML that [`parse`](Self::parse) reads back to an equal one. Options without a
    /// value are left out.
    ///
    /// # Errors
    /// The text cannot be formed.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        let tree = serde_json::to_value(self).map_err(|error| ConfigError::Yaml(error.to_string()))?;
        serde_saphyr::to_string(&without_nulls(tree)).map_err(|error| ConfigError::Yaml(error.to_string()))
    }
}

/// What can be wrong with a config. Each message names the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: the config cannot be read ({source})", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not YAML.
    #[error("{}: the config is not valid YAML ({message})", path.display())]
    YamlFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// A text is not YAML.
    #[error("the config is not valid YAML ({0})")]
    Yaml(String),
    /// An override is not `key=value`, or its key leads nowhere.
    #[error("the override `{text}` {problem}")]
    Override {
        /// The override as given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option that does not exist.
    #[error("there is no option `{key}`; {hint}")]
    UnknownKey {
        /// The option, with the path to it.
        key: String,
        /// The nearest option, or all.
        hint: String,
    },
    /// An option that is planned.
    #[error("`{key}` is not supported yet; remove it, or set it to false")]
    NotYet {
        /// The option.
        key: &'static str,
    },
    /// An option that must be given.
    #[error("`{key}` is missing; {hint}")]
    Missing {
        /// The option.
        key: &'static str,
        /// What to write.
        hint: &'static str,
    },
    /// A value of the wrong type.
    #[error("`{key}: {value}` cannot be used: {problem}")]
    WrongType {
        /// The option, with the path to it.
        key: String,
        /// Its value.
        value: String,
        /// What was expected.
        problem: String,
    },
    /// A value out of its range.
    #[error("`{key}: {value}` cannot be used: it must be {allowed}")]
    OutOfRange {
        /// The option.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Options that do not go together, or an entry whose parts do not.
    #[error("{0}")]
    Inconsistent(String),
    /// An option of early stopping is out of its range.
    #[error("early_stopping: {0}")]
    EarlyStopping(#[from] grades::ConfigError),
}

impl ConfigError {
    /// Names the file of a text that is not YAML.
    fn of_file(self, path: &Path) -> Self {
        match self {
            Self::Yaml(message) => Self::YamlFile { path: path.to_owned(), message },
            error => error,
        }
    }
}

#[cfg(test)]
mod tests;
