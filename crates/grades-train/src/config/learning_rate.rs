//! `learning_rate`: a number, or `auto`.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::{Config, ConfigError, Optimizer};

/// The learning rate at the end of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub enum LearningRate {
    /// Found before the first step.
    Auto,
    /// This one.
    At(f64),
}

impl LearningRate {
    /// The number, where one is given.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Auto => None,
            Self::At(rate) => Some(rate),
        }
    }
}

impl TryFrom<Value> for LearningRate {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            word if word == "auto" => Ok(Self::Auto),
            number => number.as_f64().map(Self::At).ok_or("it must be a number or auto"),
        }
    }
}

impl Serialize for LearningRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::At(rate) => serializer.serialize_f64(*rate),
        }
    }
}

impl Config {
    /// `auto` needs gains, which AdamW's moments tell, and is a number of nothing yet.
    pub(super) fn validate_auto_rate(&self) -> Result<(), ConfigError> {
        if self.learning_rate != LearningRate::Auto {
            return Ok(());
        }
        let kwargs = &self.lr_scheduler_kwargs;
        let absolute = [
            ("embedding_lr", self.embedding_lr.is_some(), "embedding_lr_scale"),
            ("vision_learning_rate", self.vision_learning_rate.is_some(), "a number as learning_rate"),
            ("projector_learning_rate", self.projector_learning_rate.is_some(), "a number as learning_rate"),
            ("lr_scheduler_kwargs.min_lr", kwargs.min_lr.is_some(), "min_lr_rate"),
            ("lr_scheduler_kwargs.lr_end", kwargs.lr_end.is_some(), "a number as learning_rate"),
        ];
        let problem = if self.optimizer != Optimizer::AdamW {
            "`learning_rate: auto` asks for the gains of updates, which only `optimizer: adamw` tells; give a number"
                .to_owned()
        } else if let Some((key, _, instead)) = absolute.iter().find(|(_, given, _)| *given) {
            format!("`{key}` is a rate beside one that is not known yet, `learning_rate: auto`; give {instead}")
        } else {
            return Ok(());
        };
        Err(ConfigError::Inconsistent(problem))
    }
}
