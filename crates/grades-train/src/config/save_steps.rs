//! `save_steps`: after which steps a run writes a checkpoint.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::split::CountOrShare;

/// Every so many steps, or a list of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum SaveSteps {
    /// A count, or a share of all steps.
    Every(CountOrShare),
    /// These steps.
    At(Vec<usize>),
}

impl SaveSteps {
    /// Whether a checkpoint is due after step `step` of `planned`.
    #[must_use]
    pub fn due(&self, step: usize, planned: usize) -> bool {
        match self {
            Self::Every(every) => step.is_multiple_of(every.of(planned)),
            Self::At(steps) => steps.contains(&step),
        }
    }

    pub(super) fn is_valid(&self) -> bool {
        match self {
            Self::Every(every) => every.is_valid() && every.value() > 0.0,
            Self::At(steps) => !steps.contains(&0),
        }
    }
}

impl TryFrom<Value> for SaveSteps {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let steps = match value {
            Value::Number(number) => return Ok(Self::Every(number.into())),
            Value::Array(steps) => steps.iter().map(|step| step.as_u64()?.try_into().ok()).collect(),
            _ => None,
        };
        steps.map(Self::At).ok_or("it must be a number of steps, a share of all, or a list of steps")
    }
}

impl From<SaveSteps> for Value {
    fn from(save_steps: SaveSteps) -> Self {
        match save_steps {
            SaveSteps::Every(every) => Self::Number(every.into()),
            SaveSteps::At(steps) => steps.into(),
        }
    }
}
