//! Every way of ending or thinning out training early, behind one trait.
//!
//! The training loop treats them alike. At the start, fresh or restored, it applies [`Policy::in_force`]. At each step
//! (0 is before the first update) it asks [`Policy::wants`], passes what was asked for in an [`Observation`], and applies
//! the [`Decision`].

mod aflora;
pub(crate) mod auto;
mod autofreeze;
mod grades;
mod loraf;
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

pub use aflora::{AfLora, AfLoraConfig, AfLoraState};
pub use autofreeze::{AutoFreeze, AutoFreezeConfig, AutoFreezeState};
pub use loraf::{Loraf, LorafConfig, LorafState};
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

    /// Takes what was measured at a step and decides. Called for each step whose [`Wants`] are not idle; calling it for
    /// others does no harm. A value that is missing or not finite never freezes or stops anything.
    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision;

    /// All that was decided and still holds, as one decision: what to apply to a model before its first step, freshly
    /// started or restored. Some methods freeze something from the beginning.
    fn in_force(&self) -> Decision;

    /// The units that are frozen, in order.
    fn frozen(&self) -> Vec<UnitId> {
        self.in_force().freeze
    }

    /// What a unit's signal is compared with, for reports; `None` where the method has no such number.
    fn threshold(&self, unit: UnitId) -> Option<f64> {
        let _ = unit;
        None
    }

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
    /// Of [`AutoFreeze`].
    Autofreeze(AutoFreezeState),
    /// Of [`AfLora`].
    Aflora(AfLoraState),
    /// Of [`Loraf`].
    Loraf(LorafState),
}

impl PolicyMemory {
    /// The method it belongs to.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => none::NAME,
            Self::Grades(_) => grades::NAME,
            Self::ValidationLoss(_) => validation_loss::NAME,
            Self::Autofreeze(_) => autofreeze::NAME,
            Self::Aflora(_) => aflora::NAME,
            Self::Loraf(_) => loraf::NAME,
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
    /// AutoFreeze: a growing prefix of layers.
    Autofreeze(AutoFreezeConfig),
    /// AFLoRA: adapter tensors along a schedule; LoRA only.
    Aflora(AfLoraConfig),
    /// LoRAF: A fixed, B sparse; LoRA only.
    Loraf(LorafConfig),
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self::Grades(Config::default())
    }
}

impl EarlyStopping {
    /// The same options, with what the schedule of a run tells where they leave it out: the steps of the warm-up and of
    /// one epoch, which `tau: auto` needs.
    pub fn for_schedule(mut self, warmup_steps: usize, epoch_steps: usize) -> Self {
        if let Self::Grades(config) = &mut self {
            config.auto.warmup_steps.get_or_insert(warmup_steps);
            config.auto.epoch_steps.get_or_insert(epoch_steps);
        }
        self
    }

    /// The policy for a run of `planned_steps` optimiser steps over these units.
    ///
    /// # Errors
    /// If the options are invalid, or do not fit the units.
    pub fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(match self {
            Self::None(_) => Box::new(NoPolicy),
            Self::Grades(config) => Box::new(Monitor::new(config.clone(), units, planned_steps)?),
            Self::ValidationLoss(config) => Box::new(ValidationLoss::new(config.clone(), planned_steps)?),
            Self::Autofreeze(config) => Box::new(AutoFreeze::new(config.clone(), units, planned_steps)?),
            Self::Aflora(config) => Box::new(AfLora::new(config.clone(), units, planned_steps)?),
            Self::Loraf(config) => Box::new(Loraf::new(config.clone(), units, planned_steps)?),
        })
    }
}

impl EarlyStopping {
    /// The name that a config writes as `method`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None(_) => none::NAME,
            Self::Grades(_) => grades::NAME,
            Self::ValidationLoss(_) => validation_loss::NAME,
            Self::Autofreeze(_) => autofreeze::NAME,
            Self::Aflora(_) => aflora::NAME,
            Self::Loraf(_) => loraf::NAME,
        }
    }

    /// Whether the method is defined for LoRA adapter pairs only. A policy cannot tell pairs from whole weights: check
    /// before building.
    pub fn needs_lora(&self) -> bool {
        matches!(self, Self::Aflora(_) | Self::Loraf(_))
    }
}

/// Fails unless both runs have the same options and planned steps.
fn check_run_of<C: fmt::Debug>(saved: (&C, usize), current: (&C, usize)) -> Result<(), RestoreError> {
    // Compared as text: numbers that passed through JSON may differ in the last bit.
    let (of_saved, of_current) = (format!("{:?}", saved.0), format!("{:?}", current.0));
    if of_saved != of_current {
        return Err(RestoreError::Config { saved: of_saved, current: of_current });
    }
    if saved.1 != current.1 {
        return Err(RestoreError::PlannedSteps { saved: saved.1, current: current.1 });
    }
    Ok(())
}

/// Takes an array out of a saved state.
fn take_buffer(
    buffers: &mut BTreeMap<String, Vec<f32>>,
    name: String,
    expected: Option<usize>,
) -> Result<Vec<f32>, RestoreError> {
    match buffers.remove(&name) {
        Some(values) if expected.is_none_or(|len| len == values.len()) => Ok(values),
        _ => Err(RestoreError::Buffer { name }),
    }
}
