//! Training to the planned end.

use serde::{Deserialize, Serialize};

use super::{Cost, Observation, Policy, PolicyMemory, PolicyState};
use crate::decision::{Decision, Wants};
use crate::state::RestoreError;

pub(super) const NAME: &str = "none";

/// The options of `method: none`: there are none, and a key that belongs to another method is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoneConfig {}

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

    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn state(&self) -> PolicyState {
        PolicyState { memory: PolicyMemory::None, cost: Cost::default(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        match state.memory {
            PolicyMemory::None => Ok(()),
            other => Err(RestoreError::Policy { saved: other.name(), current: NAME }),
        }
    }
}
