//! `report_to`: which trackers' files a run writes beside its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A tool that shows runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tracker {
    /// Event files that TensorBoard reads.
    Tensorboard,
    /// The JSON lines of a Weights & Biases history.
    Wandb,
}

/// Some trackers: a list, a single name, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct ReportTo(Vec<Tracker>);

impl ReportTo {
    /// The trackers, each once.
    #[must_use]
    pub fn trackers(&self) -> &[Tracker] {
        &self.0
    }
}

impl TryFrom<Value> for ReportTo {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let names = match value {
            Value::Array(names) => names,
            Value::Bool(false) | Value::Null => Vec::new(),
            name if name == "none" => Vec::new(),
            name => vec![name],
        };
        let mut trackers = Vec::new();
        for name in names {
            let tracker =
                serde_json::from_value(name).map_err(|_| "it must be tensorboard, wandb, a list of them, or none")?;
            if !trackers.contains(&tracker) {
                trackers.push(tracker);
            }
        }
        Ok(Self(trackers))
    }
}

impl From<ReportTo> for Value {
    fn from(report_to: ReportTo) -> Self {
        let name = |tracker: Tracker| serde_json::to_value(tracker).unwrap_or_default();
        report_to.0.into_iter().map(name).collect()
    }
}
