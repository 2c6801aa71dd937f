//! What a method remembers that decides by the step alone.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::contract::{Cost, PolicyMemory, PolicyState, check_run_of};
use crate::state::{RestoreError, check_units};
use crate::unit::UnitId;

/// The options, the run, and how far it is: all else follows from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepMemory<C> {
    pub(super) config: C,
    pub(super) planned_steps: usize,
    /// The last step that was observed.
    pub(super) last_step: usize,
    pub(super) units: BTreeSet<UnitId>,
}

impl<C: fmt::Debug + Serialize + DeserializeOwned> StepMemory<C> {
    /// Of a run that has not begun.
    pub(super) fn new(config: C, units: &[UnitId], planned_steps: usize) -> Self {
        Self { config, planned_steps, last_step: 0, units: units.iter().copied().collect() }
    }

    /// What is saved under the name of the method.
    pub(super) fn state(&self, method: &'static str) -> PolicyState {
        PolicyState { memory: PolicyMemory::new(method, self), cost: Cost::default(), buffers: Default::default() }
    }

    /// Goes on from what was saved.
    ///
    /// # Errors
    /// If it is of another method, config, run or model, or damaged. Nothing is changed then.
    pub(super) fn restore(&mut self, method: &'static str, state: PolicyState) -> Result<(), RestoreError> {
        let saved: Self = state.memory.read(method)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.config, self.planned_steps))?;
        check_units(&saved.units, &self.units)?;
        *self = saved;
        Ok(())
    }
}
