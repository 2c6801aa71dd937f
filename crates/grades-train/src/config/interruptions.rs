//! What a run does when something comes between: where it goes on from, and what it does about numbers that are none.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `resume_from_checkpoint`: where a run goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Resume {
    /// From the last whole checkpoint of its own directory; from the start where there is none.
    Auto,
    /// From this one.
    From(PathBuf),
}

impl Resume {
    /// The checkpoint that is named.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Auto => None,
            Self::From(path) => Some(path),
        }
    }
}

impl TryFrom<Value> for Resume {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            // transformers' Trainer says `true`.
            Value::Bool(true) => Ok(Self::Auto),
            Value::String(text) if text == "auto" => Ok(Self::Auto),
            Value::String(path) => Ok(Self::From(path.into())),
            _ => Err("it must be auto or the folder of a checkpoint"),
        }
    }
}

impl From<Resume> for Value {
    fn from(resume: Resume) -> Self {
        match resume {
            Resume::Auto => "auto".into(),
            Resume::From(path) => path.to_string_lossy().into(),
        }
    }
}

/// `on_nonfinite`: what happens at a step whose loss or gradients are NaN or infinite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnNonfinite {
    /// Training ends with an error.
    #[default]
    Stop,
    /// The step changes nothing, and is counted.
    Skip,
}
