//! GradES as one policy among others.

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, RunFacts};
use crate::check::ConfigError;
use crate::config::Config;
use crate::decision::{Decision, Wants};
use crate::gain::StepGains;
use crate::monitor::Monitor;
use crate::norm::Norm;
use crate::signal::Signal;
use crate::state::RestoreError;
use crate::unit::UnitId;

const NAME: &str = "grades";

impl Method for Config {
    fn name(&self) -> &'static str {
        NAME
    }

    fn split_fused(&self) -> bool {
        self.split_fused
    }

    fn unfreezes(&self) -> bool {
        self.unfreeze
    }

    fn fill_in(&mut self, facts: &RunFacts) {
        self.auto.warmup_steps.get_or_insert(facts.warmup_steps);
        self.auto.epoch_steps.get_or_insert(facts.epoch_steps);
    }

    fn validate(&self) -> Result<(), ConfigError> {
        Self::validate(self)
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(Monitor::new(self.clone(), units, planned_steps)?))
    }
}

impl Policy for Monitor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        Self::wants(self, step)
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        if let Some(loss) = observation.training_loss {
            self.observe_loss(step, loss);
        }
        Self::observe(self, step, observation.measurements)
    }

    fn observe_gains(&mut self, step: usize, gains: &StepGains<'_>) {
        Self::observe_gains(self, step, gains);
    }

    fn in_force(&self) -> Decision {
        Decision {
            step: self.last_step(),
            freeze: Self::frozen(self).into_iter().collect(),
            freeze_companions: self.frozen_companions().into_iter().collect(),
            ..Decision::default()
        }
    }

    fn signal(&self) -> Option<(Signal, Norm)> {
        Some((self.config().signal(), self.config().norm()))
    }

    fn threshold(&self, unit: UnitId) -> Option<f64> {
        Self::threshold(self, unit)
    }

    fn cost(&self) -> Cost {
        Cost { measurements: self.measurements(), ..Cost::default() }
    }

    fn state(&self) -> PolicyState {
        let memory = PolicyMemory::new(NAME, &Self::state(self));
        PolicyState { memory, cost: self.cost(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        Self::restore(self, state.memory.read(NAME)?)
    }
}
