//! GradES as one policy among others.

use super::{Cost, Observation, Policy, PolicyMemory, PolicyState};
use crate::decision::{Decision, Wants};
use crate::monitor::Monitor;
use crate::state::RestoreError;
use crate::unit::UnitId;

pub(super) const NAME: &str = "grades";

impl Policy for Monitor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        Self::wants(self, step)
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        Self::observe(self, step, observation.measurements)
    }

    fn in_force(&self) -> Decision {
        Decision {
            step: self.last_step(),
            freeze: Self::frozen(self).into_iter().collect(),
            freeze_companions: self.frozen_companions().into_iter().collect(),
            ..Decision::default()
        }
    }

    fn threshold(&self, unit: UnitId) -> Option<f64> {
        Self::threshold(self, unit)
    }

    fn cost(&self) -> Cost {
        Cost { measurements: self.measurements(), ..Cost::default() }
    }

    fn state(&self) -> PolicyState {
        PolicyState { memory: PolicyMemory::Grades(Self::state(self)), cost: self.cost(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        match state.memory {
            PolicyMemory::Grades(memory) => Self::restore(self, memory),
            other => Err(RestoreError::Policy { saved: other.name(), current: NAME }),
        }
    }
}
