//! Every way of ending or thinning out training early, behind one trait.
//!
//! The training loop treats them alike. At each step (0 is before the first update) it asks [`Policy::wants`], passes
//! what was asked for in an [`Observation`], and applies the [`Decision`].

pub(crate) mod auto;
mod grades;
mod none;
mod validation_loss;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Config, ConfigError};
use crate::decision::{Decision, PartId, Wants};
use crate::monitor::Monitor;
use crate::signal::Measurement;
use crate::state::{MonitorState, RestoreError};
use crate::unit::UnitId;

pub use none::{NoPolicy, NoneConfig};
pub use validation_loss::{ValidationLoss, ValidationLossConfig, ValidationLossState};

/// The elements of one tensor, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elements<'a> {
    /// The tensor.
    pub tensor: PartId,
    /// Its elements, or those of its gradient.
    pub values: &'a [f32],
}

/// What the training loop measured at one step: as much of it as [`Wants`] asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Observation<'a> {
    /// For each unit that still trains, the measurements of its tensors.
    pub measurements: &'a [(UnitId, Vec<Measurement>)],
    /// The gradients of the tensors that still train, as the optimiser gets them (mean, before clipping).
    pub gradients: &'a [Elements<'a>],
    /// The weights of all tensors of the units.
    pub weights: &'a [Elements<'a>],
    /// The mean loss per predicted token over the validation set.
    pub validation_loss: Option<f64>,
}

/// What a policy has spent on its own checks, beside the measurements and validations that it asked the loop for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Measurements of a tensor's norms that the loop made for it.
    pub measurements: u64,
    /// Validations that the loop made for it.
    pub validations: u64,
    /// Floating-point operations on the elements passed to it.
    pub operations: u64,
    /// Bytes that it keeps between steps now.
    pub bytes: u64,
}

/// A method of early stopping or freezing.
pub trait Policy: fmt::Debug + Send {
    /// The name that a config writes as `method`.
    fn name(&self) -> &'static str;

    /// What this step's observation needs. Asked for every step, beginning with 0.
    fn wants(&self, step: usize) -> Wants;

    /// Takes what was measured at a step and decides. Called for each step whose [`Wants`] is not the default; calling
    /// it for others does no harm. A value that is missing or not finite never freezes or stops anything.
    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision;

    /// The units that are frozen, in order.
    fn frozen(&self) -> Vec<UnitId>;

    /// What its checks have cost so far.
    fn cost(&self) -> Cost;

    /// What must be saved to go on from here.
    fn state(&self) -> PolicyState;

    /// Goes on from a saved state, deciding as if never interrupted.
    ///
    /// # Errors
    /// If the state is of another method, config or model. The policy is then unchanged.
    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError>;
}

/// The memory of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyState {
    /// Everything small.
    pub memory: PolicyMemory,
    /// What the checks had cost.
    pub cost: Cost,
    /// Arrays of the size of the monitored tensors, empty for most methods. Take them out and write them beside the
    /// weights where a text format would grow too large, and put them back before restoring.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub buffers: BTreeMap<String, Vec<f32>>,
}

/// The small part of a policy's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum PolicyMemory {
    /// Of [`NoPolicy`].
    None,
    /// Of a [`Monitor`].
    Grades(MonitorState),
    /// Of [`ValidationLoss`].
    ValidationLoss(ValidationLossState),
}

impl PolicyMemory {
    /// The method it belongs to.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => none::NAME,
            Self::Grades(_) => grades::NAME,
            Self::ValidationLoss(_) => validation_loss::NAME,
        }
    }
}

/// The choice of a method with its options, as a config file writes it: `{method: grades, tau: auto}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum EarlyStopping {
    /// All planned steps, every parameter.
    None(NoneConfig),
    /// GradES.
    Grades(Config),
    /// Classic early stopping on the validation loss.
    ValidationLoss(ValidationLossConfig),
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self::Grades(Config::default())
    }
}

impl EarlyStopping {
    /// The policy for a run of `planned_steps` optimiser steps over these units.
    ///
    /// # Errors
    /// If the options are invalid, or do not fit the units.
    pub fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(match self {
            Self::None(_) => Box::new(NoPolicy),
            Self::Grades(config) => Box::new(Monitor::new(config.clone(), units, planned_steps)?),
            Self::ValidationLoss(config) => Box::new(ValidationLoss::new(config.clone(), planned_steps)?),
        })
    }
}
