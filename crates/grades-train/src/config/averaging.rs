//! `weight_average`: the average of the weights that a run ends with.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::train::average::WeightAverage;

/// A kind of average, or a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Averaging {
    /// As the method has it.
    #[default]
    Auto,
    /// None.
    None,
    /// This one.
    Kind(WeightAverage),
}

impl TryFrom<Value> for Averaging {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::Null => Ok(Self::Auto),
            word if word == "auto" => Ok(Self::Auto),
            word if word == "none" || word == false => Ok(Self::None),
            kind => serde_json::from_value(kind).map(Self::Kind).map_err(|error| {
                format!("it must be auto, none, {{kind: polynomial, power: 3}} or {{kind: ema, updates: 20}} ({error})")
            }),
        }
    }
}

impl From<Averaging> for Value {
    fn from(averaging: Averaging) -> Self {
        match averaging {
            Averaging::Auto => "auto".into(),
            Averaging::None => "none".into(),
            Averaging::Kind(kind) => serde_json::to_value(kind).unwrap_or_default(),
        }
    }
}
