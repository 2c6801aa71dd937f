//! Classic early stopping: validate now and then, stop when it no longer helps, keep the best weights.

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, check_run_of};
use crate::check::{ConfigError, require};
use crate::config::share_of_steps;
use crate::decision::{Decision, Wants};
use crate::event::StopReason;
use crate::exact;
use crate::state::RestoreError;
use crate::unit::UnitId;

const NAME: &str = "validation_loss";

/// The options of `method: validation_loss`. The defaults are the paper's (Appendix C).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ValidationLossConfig {
    /// Validates each time this share of the planned steps has passed, in (0, 1], and at the last step. Default: 0.05.
    pub every: f64,
    /// How much lower than at the last improvement the loss must be to count as an improvement. Default: 0.0005.
    pub min_delta: f64,
    /// How many *checks* (not steps, not epochs) in a row may bring no improvement. Default: 3.
    pub patience: usize,
}

impl Default for ValidationLossConfig {
    fn default() -> Self {
        Self { every: 0.05, min_delta: 0.0005, patience: 3 }
    }
}

impl Method for ValidationLossConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs_validation(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        require(self.every > 0.0 && self.every <= 1.0, "every", self.every, "above 0 and at most 1")?;
        let delta = self.min_delta;
        require(delta >= 0.0 && delta.is_finite(), "min_delta", delta, "a number that is not negative")?;
        require(self.patience >= 1, "patience", self.patience as f64, "at least 1")
    }

    fn build(&self, _units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(ValidationLoss::new(self.clone(), planned_steps)?))
    }
}

/// What [`ValidationLoss`] must remember.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidationLossState {
    planned_steps: usize,
    config: ValidationLossConfig,
    /// The lowest loss so far, whose weights are kept.
    #[serde(with = "exact")]
    best: f64,
    best_step: usize,
    /// The loss that an improvement is counted from. It moves with improvements of more than `min_delta` only, so that
    /// many small ones that add up do count.
    #[serde(with = "exact")]
    reference: f64,
    without_improvement: usize,
    checks: u64,
    last_step: usize,
    stopped: bool,
}

/// Stops when the validation loss has not improved for some checks, and restores the best weights.
#[derive(Debug, Clone)]
pub struct ValidationLoss {
    state: ValidationLossState,
    /// Steps between checks.
    every: usize,
}

impl ValidationLoss {
    /// The policy for a run of `planned_steps` optimizer steps.
    ///
    /// # Errors
    /// If an option is out of range or no steps are planned.
    pub fn new(config: ValidationLossConfig, planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        if planned_steps == 0 {
            return Err(ConfigError::NoSteps);
        }
        Ok(Self {
            every: share_of_steps(config.every, planned_steps).max(1),
            state: ValidationLossState {
                planned_steps,
                config,
                best: f64::INFINITY,
                best_step: 0,
                reference: f64::INFINITY,
                without_improvement: 0,
                checks: 0,
                last_step: 0,
                stopped: false,
            },
        })
    }

    /// The step with the lowest validation loss so far, and that loss.
    pub fn best(&self) -> Option<(usize, f64)> {
        self.state.best.is_finite().then_some((self.state.best_step, self.state.best))
    }
}

impl Policy for ValidationLoss {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let due = step > 0 && (step.is_multiple_of(self.every) || step == self.state.planned_steps);
        Wants { validation_loss: due && !self.state.stopped, ..Wants::default() }
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        let wanted = self.wants(step).validation_loss && step > self.state.last_step;
        let Some(loss) = observation.validation_loss.filter(|_| wanted) else {
            return decision;
        };
        let state = &mut self.state;
        state.last_step = step;
        state.checks += 1;
        // NaN compares false: a broken check is one without improvement.
        if loss < state.best {
            state.best = loss;
            state.best_step = step;
            decision.save_best = true;
        }
        if loss < state.reference - state.config.min_delta {
            state.reference = loss;
            state.without_improvement = 0;
        } else {
            state.without_improvement += 1;
        }
        if state.without_improvement >= state.config.patience {
            decision.stop = Some(StopReason::ValidationLoss);
            state.stopped = true;
        }
        let ends = state.stopped || step == state.planned_steps;
        decision.restore_best = ends && state.best.is_finite() && state.best_step != step;
        decision
    }

    fn in_force(&self) -> Decision {
        Decision { step: self.state.last_step, ..Decision::default() }
    }

    fn cost(&self) -> Cost {
        Cost { validations: self.state.checks, ..Cost::default() }
    }

    fn state(&self) -> PolicyState {
        let memory = PolicyMemory::new(NAME, &self.state);
        PolicyState { memory, cost: self.cost(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        let saved: ValidationLossState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.state.config, self.state.planned_steps))?;
        self.state = saved;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(policy: &mut ValidationLoss, losses: &[f64]) -> Vec<(usize, bool, bool, bool)> {
        let mut losses = losses.iter().copied();
        let mut log = Vec::new();
        for step in 1..=policy.state.planned_steps {
            if policy.wants(step).validation_loss {
                let validation_loss = losses.next();
                let decision = policy.observe(step, &Observation { validation_loss, ..Observation::default() });
                log.push((step, decision.save_best, decision.restore_best, decision.stop.is_some()));
                if decision.stop.is_some() {
                    break;
                }
            }
        }
        log
    }

    fn policy(planned_steps: usize) -> ValidationLoss {
        ValidationLoss::new(ValidationLossConfig::default(), planned_steps).unwrap()
    }

    #[test]
    fn checks_fall_on_every_twentieth_and_on_the_last_step() {
        let due = |steps| (0..=steps).filter(|t| policy(steps).wants(*t).validation_loss).collect::<Vec<_>>();
        assert_eq!(due(100), (1..=20).map(|i| 5 * i).collect::<Vec<_>>());
        assert_eq!(due(50), [3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 50]);
        assert_eq!(due(3), [1, 2, 3]);
    }

    #[test]
    fn stops_after_three_checks_without_improvement_and_restores_the_lowest() {
        // 2.9998 is the lowest, but no improvement of more than 0.0005.
        let mut policy = policy(100);
        let log = run(&mut policy, &[3.5, 3.0, 3.1, 2.9998, 3.2]);
        assert_eq!(
            log,
            [
                (5, true, false, false),
                (10, true, false, false),
                (15, false, false, false),
                (20, true, false, false),
                (25, false, true, true)
            ]
        );
        assert_eq!(policy.best(), Some((20, 2.9998)));
        assert_eq!(policy.cost().validations, 5);
        assert_eq!(policy.wants(30), Wants::default());
    }

    #[test]
    fn an_improvement_starts_the_count_again_and_small_ones_add_up() {
        let log = run(&mut policy(100), &[3.0, 3.1, 3.1, 2.9, 3.1, 3.1, 3.1]);
        assert_eq!(log.last(), Some(&(35, false, true, true)));
        let slow: Vec<f64> = (0..20).map(|i| 3.0 - 0.0003 * f64::from(i)).collect();
        let log = run(&mut policy(100), &slow);
        assert_eq!(log.len(), 20);
        assert!(log.iter().all(|entry| entry.1 && !entry.2));
    }

    #[test]
    fn the_best_weights_come_back_at_the_planned_end_too() {
        let log = run(&mut policy(3), &[3.0, 2.0, 2.5]);
        assert_eq!(log, [(1, true, false, false), (2, true, false, false), (3, false, true, false)]);
    }

    #[test]
    fn broken_losses_are_never_best_and_missing_ones_do_not_count() {
        let mut broken = policy(100);
        let log = run(&mut broken, &[f64::NAN, f64::INFINITY, f64::NAN]);
        assert_eq!(log.last(), Some(&(15, false, false, true)));
        assert_eq!(broken.best(), None);
        let mut missing = policy(100);
        assert_eq!(run(&mut missing, &[]).len(), 20);
        assert_eq!(missing.cost().validations, 0);
    }

    #[test]
    fn a_restored_run_goes_on_as_the_uninterrupted_one() {
        let losses = [3.5, 3.0, 3.1, 2.9998, 3.2];
        let mut whole = policy(100);
        let expected = run(&mut whole, &losses);
        for cut in 0..losses.len() {
            let mut first = policy(100);
            for (i, loss) in losses[..cut].iter().enumerate() {
                first.observe(5 * (i + 1), &Observation { validation_loss: Some(*loss), ..Observation::default() });
            }
            let json = serde_json::to_string(&first.state()).unwrap();
            let mut second = policy(100);
            second.restore(serde_json::from_str(&json).unwrap()).unwrap();
            for (i, loss) in losses.iter().enumerate().skip(cut) {
                let decision = second
                    .observe(5 * (i + 1), &Observation { validation_loss: Some(*loss), ..Observation::default() });
                let entry = (decision.step, decision.save_best, decision.restore_best, decision.stop.is_some());
                assert_eq!(entry, expected[i]);
            }
            assert_eq!(second.state(), whole.state());
        }
        assert!(matches!(
            policy(99).restore(whole.state()),
            Err(RestoreError::PlannedSteps { saved: 100, current: 99 })
        ));
    }
}
