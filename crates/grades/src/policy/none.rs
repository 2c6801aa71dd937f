//! Training to the planned end.

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState};
use crate::check::ConfigError;
use crate::decision::{Decision, Wants};
use crate::state::RestoreError;
use crate::unit::UnitId;

const NAME: &str = "none";

/// The options of `method: none`: there are none, and a key that belongs to another method is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NoneConfig {}

impl Method for NoneConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn build(&self, _units: &[UnitId], _planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(NoPolicy))
    }
}

/// What [`NoPolicy`] must remember: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoneState {}

/// Asks for nothing and decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoPolicy;

impl Policy for NoPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, _step: usize) -> Wants {
        Wants::default()
    }

    fn observe(&mut self, step: usize, _observation: &Observation<'_>) -> Decision {
        Decision { step, ..Decision::default() }
    }

    fn in_force(&self) -> Decision {
        Decision::default()
    }

    fn state(&self) -> PolicyState {
        let memory = PolicyMemory::new(NAME, &NoneState {});
        PolicyState { memory, cost: Cost::default(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        state.memory.read::<NoneState>(NAME).map(|_| ())
    }
}
