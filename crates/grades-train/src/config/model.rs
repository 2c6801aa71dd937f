//! Which model a run trains, and what its values are at the start.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hub::{Hub, HubError};

/// The model: a checkpoint, or the parts of a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Model {
    /// A folder in the Hugging Face layout, a GGUF file, or a model of the Hugging Face Hub (`owner/name`).
    Checkpoint(PathBuf),
    /// The GGUF file of a language model, with that of what reads pictures before it.
    WithMmproj {
        /// The file of the language model.
        path: PathBuf,
        /// The other.
        mmproj: PathBuf,
    },
    /// A model that is made from its description.
    New {
        /// A `config.json` or the folder that holds it.
        config: PathBuf,
        /// A folder with a `tokenizer.json`, or a GGUF file.
        tokenizer: PathBuf,
    },
}

impl Model {
    /// Whether nothing is given.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Checkpoint(path) if path.as_os_str().is_empty())
    }

    /// The checkpoint, where it is one.
    pub fn checkpoint(&self) -> Option<&str> {
        match self {
            Self::Checkpoint(path) | Self::WithMmproj { path, .. } => path.to_str(),
            Self::New { .. } => None,
        }
    }

    /// The same on disk: a model of the Hub in its cache.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub fn fetched(&self, hub: &Hub) -> Result<Self, HubError> {
        match self {
            Self::Checkpoint(path) => hub.model(path).map(Self::Checkpoint),
            Self::WithMmproj { .. } => Ok(self.clone()),
            Self::New { .. } => Ok(self.clone()),
        }
    }

    /// The same without the weights of a model of the Hub.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub fn described(&self, hub: &Hub) -> Result<Self, HubError> {
        match self {
            Self::Checkpoint(path) => hub.description(path).map(Self::Checkpoint),
            Self::WithMmproj { .. } => Ok(self.clone()),
            Self::New { .. } => Ok(self.clone()),
        }
    }

    /// Where the tokenizer is.
    pub fn tokenizer(&self) -> &Path {
        match self {
            Self::Checkpoint(path) | Self::WithMmproj { path, .. } => path,
            Self::New { tokenizer, .. } => tokenizer,
        }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::Checkpoint(PathBuf::new())
    }
}

impl TryFrom<Value> for Model {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        const EXPECTED: &str = "it must be a folder, a GGUF file, {config: config.json, tokenizer: folder}, or {path: model.gguf, mmproj: mmproj.gguf}";
        match value {
            Value::String(path) => Ok(Self::Checkpoint(path.into())),
            Value::Object(parts) => {
                let part = |name: &str| parts.get(name).and_then(Value::as_str).map(PathBuf::from);
                if let (Some(path), Some(mmproj), 2) = (part("path"), part("mmproj"), parts.len()) {
                    return Ok(Self::WithMmproj { path, mmproj });
                }
                match (part("config"), part("tokenizer"), parts.len()) {
                    (Some(config), Some(tokenizer), 2) => Ok(Self::New { config, tokenizer }),
                    _ => Err(EXPECTED),
                }
            }
            _ => Err(EXPECTED),
        }
    }
}

impl From<Model> for Value {
    fn from(model: Model) -> Self {
        let text = |path: &Path| Self::from(path.to_string_lossy());
        match model {
            Model::Checkpoint(path) => text(&path),
            Model::WithMmproj { path, mmproj } => {
                serde_json::json!({ "path": text(&path), "mmproj": text(&mmproj) })
            }
            Model::New { config, tokenizer } => {
                serde_json::json!({ "config": text(&config), "tokenizer": text(&tokenizer) })
            }
        }
    }
}

/// The values that a model begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Those of its checkpoint.
    #[default]
    Pretrained,
    /// Random ones that depend on `seed`, as transformers draws them: normal with the config's `initializer_range`, norms
    /// 1, biases 0.
    Random,
}
