//! What a monitor must remember to go on deciding as if it had never been interrupted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::auto::Detector;
use crate::event::Event;
use crate::unit::UnitId;

/// The memory of a [`Monitor`](crate::Monitor). The kept gradients and weights are the training loop's to save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorState {
    /// The config, as its one-line description.
    pub(crate) config: String,
    pub(crate) planned_steps: usize,
    pub(crate) last_step: usize,
    pub(crate) stopped: bool,
    pub(crate) measurements: u64,
    pub(crate) units: BTreeMap<UnitId, UnitState>,
    /// Only with `tau: auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detector: Option<Detector>,
    pub(crate) events: Vec<Event>,
}

/// The memory of one unit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnitState {
    /// Consecutive measurements that passed the threshold.
    #[serde(default)]
    pub(crate) streak: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frozen_at: Option<usize>,
    /// How often it was tried again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) tries: u32,
}

fn is_zero(tries: &u32) -> bool {
    *tries == 0
}

/// A saved state that does not belong to this run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Saved under another config.
    #[error(
        "the saved state was made with `{saved}` but this run has `{current}`: resume with the saved options or start anew"
    )]
    Config {
        /// The options it was saved with.
        saved: String,
        /// The options of this run.
        current: String,
    },
    /// Saved for another number of steps, which moves the grace period.
    #[error(
        "the saved state was made for {saved} planned steps but this run plans {current}: resume with the same number"
    )]
    PlannedSteps {
        /// Planned when it was saved.
        saved: usize,
        /// Planned now.
        current: usize,
    },
    /// Saved for another model.
    #[error(
        "the saved state and this model differ in the matrix `{unit}`: resume with the model and adapter it was saved from"
    )]
    Units {
        /// The first matrix that only one of them has.
        unit: UnitId,
    },
    /// Saved by another method.
    #[error("the saved state is of the method `{saved}` but this run uses `{current}`: resume with the saved method")]
    Policy {
        /// The method that saved it.
        saved: String,
        /// The method of this run.
        current: &'static str,
    },
    /// Not what the method writes.
    #[error(
        "the saved state of the method `{method}` cannot be read ({reason}): resume from a complete checkpoint, with the \
         version that saved it"
    )]
    Damaged {
        /// The method.
        method: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An array that is missing or has changed its size.
    #[error("the saved state lacks the array `{name}` or holds it in another size: resume from a complete checkpoint")]
    Buffer {
        /// The array.
        name: String,
    },
}

/// Fails unless both lists hold the same units.
pub(crate) fn check_units<'a>(
    saved: impl IntoIterator<Item = &'a UnitId>,
    current: impl IntoIterator<Item = &'a UnitId>,
) -> Result<(), RestoreError> {
    let saved: std::collections::BTreeSet<_> = saved.into_iter().collect();
    let current: std::collections::BTreeSet<_> = current.into_iter().collect();
    match saved.symmetric_difference(&current).next() {
        Some(unit) => Err(RestoreError::Units { unit: **unit }),
        None => Ok(()),
    }
}
