//! What a run computes with: the dtype of its products, and threads.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The dtype of the matrix products. Weights and optimizer state are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The fastest that the machine has.
    Auto,
    /// f32.
    F32,
    /// bf16 with sums in f32.
    Bf16,
}

impl Precision {
    /// What this processor computes with.
    #[must_use]
    pub fn resolve(self) -> grades_tensor::Dtype {
        match self {
            Self::Auto => grades_tensor::Dtype::fastest(),
            Self::F32 => grades_tensor::Dtype::F32,
            Self::Bf16 => grades_tensor::Dtype::Bf16,
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("{text} is no precision; known are auto, f32 and bf16")),
        }
    }
}

/// A number of threads, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Threads(Option<NonZeroUsize>);

impl Threads {
    /// The number, or `None` for as many as fit the machine.
    pub fn count(self) -> Option<NonZeroUsize> {
        self.0
    }
}

impl TryFrom<Value> for Threads {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        if value == "auto" {
            return Ok(Self(None));
        }
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).and_then(NonZeroUsize::new);
        count.map(|count| Self(Some(count))).ok_or("it must be auto or a whole number from 1")
    }
}

impl From<Threads> for Value {
    fn from(threads: Threads) -> Self {
        threads.0.map_or_else(|| "auto".into(), |count| count.get().into())
    }
}
