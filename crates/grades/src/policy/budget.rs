//! Training to a budget: the run ends when so much arithmetic, or time, is spent.
//!
//! With a constant learning rate and an average of the weights no length need be known in advance, so that a budget is all
//! that there is to say. It is also the control of every method that stops parts of a model early: everything stopped at
//! once, when as much is spent.

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, check_run_of};
use crate::check::{ConfigError, require};
use crate::decision::{Decision, Wants};
use crate::event::StopReason;
use crate::state::RestoreError;
use crate::unit::UnitId;

const NAME: &str = "budget";

/// The options of `method: budget`. At least one of them is required; the first that is spent ends the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Floating-point operations of training, validation and monitoring. The run ends after the step that brings it nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// Seconds of the steps with validation. The run ends after the step that brings it nearest; a resumed run goes on
    /// counting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl Method for BudgetConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.flops.is_none() && self.seconds.is_none() {
            return Err(ConfigError::NoBudget);
        }
        for (key, value) in [("flops", self.flops), ("seconds", self.seconds)] {
            let value = value.unwrap_or(1.0);
            require(value > 0.0 && value.is_finite(), key, value, "a positive number")?;
        }
        Ok(())
    }

    fn build(&self, _units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        self.validate()?;
        Ok(Box::new(Budget { config: self.clone(), planned_steps, stopped: false }))
    }
}

/// A budget being spent.
#[derive(Debug, Clone)]
struct Budget {
    config: BudgetConfig,
    planned_steps: usize,
    stopped: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetState {
    config: BudgetConfig,
    planned_steps: usize,
    stopped: bool,
}

impl Policy for Budget {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        Wants { decide: step > 0 && !self.stopped, ..Wants::default() }
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if self.stopped || step == 0 {
            return decision;
        }
        // Another step would overshoot by more than this one falls short.
        let spent = |spent: f64, budget: Option<f64>| budget.is_some_and(|all| spent + spent / step as f64 / 2.0 > all);
        let observed = observation.spent;
        if spent(observed.flops as f64, self.config.flops) || spent(observed.seconds, self.config.seconds) {
            self.stopped = true;
            decision.stop = Some(StopReason::Budget);
        }
        decision
    }

    fn in_force(&self) -> Decision {
        Decision::default()
    }

    fn state(&self) -> PolicyState {
        let Self { config, planned_steps, stopped } = self.clone();
        let memory = PolicyMemory::new(NAME, &BudgetState { config, planned_steps, stopped });
        PolicyState { memory, cost: Cost::default(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        let saved: BudgetState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.config, self.planned_steps))?;
        self.stopped = saved.stopped;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::Spent;
    use super::*;

    /// The step at which a budget is spent, where every step costs `flops` and `seconds`.
    fn end(config: BudgetConfig, flops: u64, seconds: f64) -> Option<usize> {
        let mut policy = config.build(&[], 100).unwrap();
        (1..=100).find(|&step| {
            let spent = Spent { flops: flops * step as u64, seconds: seconds * step as f64 };
            policy.observe(step, &Observation { spent, ..Observation::default() }).stop == Some(StopReason::Budget)
        })
    }

    #[test]
    fn the_run_ends_after_the_step_nearest_to_what_is_given_out_first() {
        let flops = |flops| BudgetConfig { flops: Some(flops), seconds: None };
        // Steps of 10: 70 is met exactly, 74 is nearer to 70 and 76 nearer to 80.
        assert_eq!(end(flops(70.0), 10, 1.0), Some(7));
        assert_eq!(end(flops(74.0), 10, 1.0), Some(7));
        assert_eq!(end(flops(76.0), 10, 1.0), Some(8));
        assert_eq!(end(flops(1.0), 10, 1.0), Some(1));
        assert_eq!(end(flops(2000.0), 10, 1.0), None);
        assert_eq!(end(BudgetConfig { flops: Some(900.0), seconds: Some(12.4) }, 10, 1.0), Some(12));
    }

    #[test]
    fn a_budget_of_nothing_is_refused() {
        assert!(BudgetConfig::default().validate().unwrap_err().to_string().contains("flops"));
        for flops in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(BudgetConfig { flops: Some(flops), seconds: None }.validate().is_err());
        }
    }

    #[test]
    fn a_restored_budget_goes_on_and_another_is_refused() {
        let config = BudgetConfig { flops: Some(50.0), seconds: None };
        let mut policy = config.build(&[], 100).unwrap();
        let spent = Spent { flops: 50, seconds: 0.0 };
        assert!(policy.observe(5, &Observation { spent, ..Observation::default() }).stop.is_some());
        let mut resumed = config.build(&[], 100).unwrap();
        resumed.restore(policy.state()).unwrap();
        assert!(resumed.wants(6).is_idle());
        let mut other = BudgetConfig { flops: Some(60.0), seconds: None }.build(&[], 100).unwrap();
        assert!(matches!(other.restore(policy.state()), Err(RestoreError::Config { .. })));
    }
}
