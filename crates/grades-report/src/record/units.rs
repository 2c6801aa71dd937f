use grades::UnitId;
use serde::{Deserialize, Serialize};

/// `units.json`: what can freeze, and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Units {
    /// The method of early stopping.
    pub method: Option<String>,
    /// What is measured.
    pub signal: Option<String>,
    /// The norm that measures it.
    pub norm: Option<String>,
    /// Whether a signal `above` or `below` its threshold freezes.
    pub freezes: Option<String>,
    /// Every matrix that can freeze.
    pub units: Vec<UnitThreshold>,
}

/// A matrix that can freeze.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitThreshold {
    /// Its name.
    pub unit: UnitId,
    /// What its signal is compared with, where it is known before the run.
    pub threshold: Option<f64>,
}
