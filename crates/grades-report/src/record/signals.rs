use std::collections::BTreeMap;

use grades::UnitId;
use serde::{Deserialize, Serialize};

/// What was measured at a step: a line of `signals.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signals {
    /// The step.
    pub step: usize,
    /// The signal of every matrix that was measured; `None` where it was not finite.
    pub signals: BTreeMap<UnitId, Option<f64>>,
}

impl Signals {
    /// Of what a decision says.
    #[must_use]
    pub fn new(step: usize, signals: &[(UnitId, f64)]) -> Self {
        let finite = |(unit, value): &(UnitId, f64)| (*unit, Some(*value).filter(|value| value.is_finite()));
        Self { step, signals: signals.iter().map(finite).collect() }
    }
}
