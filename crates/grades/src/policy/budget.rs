//! Training to a budget: the run ends when so much arithmetic, or time, is spent.
//!
//! With a constant learning rate and an average of the weights no length need be known in advance, so that a budget is all
//! that there is to say. It is also the control of every method that stops parts of a model early: everything stopped at
//! once, when as much is spent.
//!
//! With `freeze` single matrices stop before that, where this loses less. What the budget lacks for the steps that are left can be
//! saved in two ways. Ending sooner loses the gain of whole steps: ḡ, for the arithmetic of a step, C. Freezing a matrix now loses
//! its own, ḡ_u, for that of its weight gradient, c_u. So those freeze for which ḡ_u / c_u < ḡ / C, the least first, until enough is
//! saved; the end makes up for the rest. This is decided every twenty steps, from what was spent and gained since.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, RunFacts, Spent, check_run_of};
use crate::check::{ConfigError, require};
use crate::decision::{Decision, Wants};
use crate::event::StopReason;
use crate::exact;
use crate::gain::{GainAverage, StepGains};
use crate::state::{RestoreError, check_units};
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
    /// Whether matrices freeze where that loses less than an earlier end: those that gain least for their arithmetic, after the
    /// warm-up, so that the planned steps fit into the budget. With AdamW, which tells gains. Default: false.
    pub freeze: bool,
    /// Steps of learning-rate warm-up, in which nothing freezes. Default: those of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
}

/// Steps from one decision about matrices to the next.
const EVERY: usize = 20;

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

    fn fill_in(&mut self, facts: &RunFacts) {
        if self.freeze {
            self.warmup_steps.get_or_insert(facts.warmup_steps);
        }
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        self.validate()?;
        let units = units.iter().map(|unit| (*unit, OfUnit::default())).collect();
        let memory = Memory { stopped: false, since: None, gain: GainAverage::default(), units };
        Ok(Box::new(Budget { config: self.clone(), planned_steps, memory }))
    }
}

/// A budget being spent.
#[derive(Debug, Clone)]
struct Budget {
    config: BudgetConfig,
    planned_steps: usize,
    memory: Memory,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    stopped: bool,
    /// The step of the last decision about matrices, and what was spent by then.
    since: Option<(usize, Spent)>,
    /// Of all parameters.
    gain: GainAverage,
    units: BTreeMap<UnitId, OfUnit>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfUnit {
    frozen: bool,
    gain: GainAverage,
    /// The share of a step's arithmetic that its freezing saves.
    #[serde(with = "exact")]
    saves: f64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetState {
    config: BudgetConfig,
    planned_steps: usize,
    memory: Memory,
}

impl Budget {
    /// The share of the arithmetic or time of a step that the steps after `step` must do without, by what the last ones took.
    fn lacks(&self, step: usize, spent: Spent, (since, before): (usize, Spent)) -> f64 {
        let left = self.planned_steps.saturating_sub(step) as f64;
        let share = |budget: Option<f64>, spent: f64, before: f64| {
            let each = (spent - before) / (step - since) as f64;
            budget.map_or(0.0, |budget| 1.0 - (budget - spent) / (left * each))
        };
        let flops = share(self.config.flops, spent.flops as f64, before.flops as f64);
        flops.max(share(self.config.seconds, spent.seconds, before.seconds))
    }

    /// The matrices to freeze so that `lacks` is saved, as far as each loses less than an earlier end.
    fn chosen(&self, lacks: f64) -> Vec<UnitId> {
        let gain = self.memory.gain.mean();
        let known = self.memory.units.iter().filter(|(_, unit)| !unit.frozen && unit.saves > 0.0);
        let mut by_worth: Vec<_> = known.map(|(id, unit)| (unit.gain.mean() / unit.saves, *id, unit.saves)).collect();
        by_worth.retain(|(worth, ..)| *worth < gain);
        by_worth.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut saved = 0.0;
        let needed = by_worth.into_iter().take_while(|(.., saves)| {
            let needed = saved < lacks;
            saved += saves;
            needed
        });
        let mut chosen: Vec<UnitId> = needed.map(|(_, id, _)| id).collect();
        chosen.sort();
        chosen
    }
}

impl Policy for Budget {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let runs = step > 0 && !self.memory.stopped;
        Wants { decide: runs, gain: runs && step > 1 && self.config.freeze, ..Wants::default() }
    }

    fn observe_gains(&mut self, _step: usize, gains: &StepGains<'_>) {
        let memory = &mut self.memory;
        if !gains.total().is_finite() || gains.flops == 0 {
            return;
        }
        memory.gain.add(gains.total());
        for of in gains.units {
            if let Some(unit) = memory.units.get_mut(&of.unit) {
                unit.gain.add(of.gain);
                unit.saves = of.saves as f64 / gains.flops as f64;
            }
        }
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if self.memory.stopped || step == 0 {
            return decision;
        }
        // Another step would overshoot by more than this one falls short.
        let spent = |spent: f64, budget: Option<f64>| budget.is_some_and(|all| spent + spent / step as f64 / 2.0 > all);
        let observed = observation.spent;
        if spent(observed.flops as f64, self.config.flops) || spent(observed.seconds, self.config.seconds) {
            self.memory.stopped = true;
            decision.stop = Some(StopReason::Budget);
            return decision;
        }
        let after_warmup = step.checked_sub(self.config.warmup_steps.unwrap_or(0));
        if self.config.freeze && after_warmup.is_some_and(|step| step.is_multiple_of(EVERY)) {
            if let Some(since) = self.memory.since.filter(|(since, _)| *since < step) {
                decision.freeze = self.chosen(self.lacks(step, observed, since));
            }
            self.memory.since = Some((step, observed));
            for unit in &decision.freeze {
                self.memory.units.entry(*unit).or_default().frozen = true;
            }
        }
        decision
    }

    fn in_force(&self) -> Decision {
        let frozen = self.memory.units.iter().filter(|(_, unit)| unit.frozen);
        Decision { freeze: frozen.map(|(unit, _)| *unit).collect(), ..Decision::default() }
    }

    fn state(&self) -> PolicyState {
        let Self { config, planned_steps, memory } = self.clone();
        let memory = PolicyMemory::new(NAME, &BudgetState { config, planned_steps, memory });
        PolicyState { memory, cost: Cost::default(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        let saved: BudgetState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.config, self.planned_steps))?;
        check_units(saved.memory.units.keys(), self.memory.units.keys())?;
        self.memory = saved.memory;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::Spent;
    use super::*;

    fn of_flops(flops: f64) -> BudgetConfig {
        BudgetConfig { flops: Some(flops), ..BudgetConfig::default() }
    }

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
        let flops = of_flops;
        // Steps of 10: 70 is met exactly, 74 is nearer to 70 and 76 nearer to 80.
        assert_eq!(end(flops(70.0), 10, 1.0), Some(7));
        assert_eq!(end(flops(74.0), 10, 1.0), Some(7));
        assert_eq!(end(flops(76.0), 10, 1.0), Some(8));
        assert_eq!(end(flops(1.0), 10, 1.0), Some(1));
        assert_eq!(end(flops(2000.0), 10, 1.0), None);
        assert_eq!(end(BudgetConfig { seconds: Some(12.4), ..of_flops(900.0) }, 10, 1.0), Some(12));
    }

    #[test]
    fn a_budget_of_nothing_is_refused() {
        assert!(BudgetConfig::default().validate().unwrap_err().to_string().contains("flops"));
        for flops in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(of_flops(flops).validate().is_err());
        }
    }

    #[test]
    fn a_restored_budget_goes_on_and_another_is_refused() {
        let config = of_flops(50.0);
        let mut policy = config.build(&[], 100).unwrap();
        let spent = Spent { flops: 50, seconds: 0.0 };
        assert!(policy.observe(5, &Observation { spent, ..Observation::default() }).stop.is_some());
        let mut resumed = config.build(&[], 100).unwrap();
        resumed.restore(policy.state()).unwrap();
        assert!(resumed.wants(6).is_idle());
        let mut other = of_flops(60.0).build(&[], 100).unwrap();
        assert!(matches!(other.restore(policy.state()), Err(RestoreError::Config { .. })));
    }

    use crate::gain::UnitGain;
    use crate::unit::Role;

    const ROLES: [Role; 3] = [Role::Q, Role::V, Role::Up];

    /// A run of 100 steps of 1,000 FLOPs each, of which a matrix that freezes saves 100; all matrices gain as they are told, and
    /// what else trains 1. When each froze, and the end.
    fn freezes(budget: f64, gains: [f64; 3], interrupted: Option<usize>) -> ([Option<usize>; 3], Option<usize>) {
        let units = ROLES.map(|role| UnitId::language(0, role));
        let config = BudgetConfig { freeze: true, warmup_steps: Some(10), ..of_flops(budget) };
        let mut policy = config.build(&units, 100).unwrap();
        let (mut frozen, mut flops) = ([None; 3], 0);
        for step in 1..=100 {
            let cost = 1000 - 100 * frozen.iter().flatten().count() as u64;
            flops += cost;
            let spent = Spent { flops, seconds: 0.0 };
            let decision = policy.observe(step, &Observation { spent, ..Observation::default() });
            for unit in &decision.freeze {
                frozen[units.iter().position(|other| other == unit).unwrap()] = Some(step);
            }
            if decision.stop.is_some() {
                return (frozen, Some(step));
            }
            let train = (0..3).filter(|&i| frozen[i].is_none());
            let of: Vec<_> = train.map(|i| UnitGain { unit: units[i], gain: gains[i], saves: 100 }).collect();
            policy.observe_gains(step, &StepGains { units: &of, others: 1.0, flops: cost });
            if interrupted == Some(step) {
                let json = serde_json::to_string(&policy.state()).unwrap();
                policy = config.build(&units, 100).unwrap();
                policy.restore(serde_json::from_str(&json).unwrap()).unwrap();
                let in_force = policy.in_force().freeze;
                assert!((0..3).all(|i| in_force.contains(&units[i]) == frozen[i].is_some()));
            }
        }
        (frozen, None)
    }

    #[test]
    fn matrices_freeze_that_gain_least_for_their_arithmetic_until_the_steps_fit() {
        // Step 10 marks the beginning, step 30 decides: of 70 steps of 1,000 the budget has 64,000 left, 0.086 less. The second
        // gains least, 0.02 for a tenth of a step, whose share of the gain of 1.32 is 0.13.
        assert_eq!(freezes(94_000.0, [0.1, 0.02, 0.2], None), ([None, Some(30), None], None));
        // 0.16 less: the first, too, which gains less than its share.
        assert_eq!(freezes(88_800.0, [0.1, 0.02, 0.2], None), ([Some(30), Some(30), None], None));
        // 0.3 less: the third gains more than its share, and the end comes before the last step.
        let (frozen, end) = freezes(79_000.0, [0.1, 0.02, 0.2], None);
        assert_eq!(frozen, [Some(30), Some(30), None]);
        assert!(end.is_some_and(|end| (88..95).contains(&end)), "{end:?}");
        // Nothing lacks, or nothing is worth freezing.
        assert_eq!(freezes(100_500.0, [0.1, 0.02, 0.2], None), ([None; 3], None));
        assert_eq!(freezes(80_000.0, [0.5, 0.5, 0.5], None), ([None; 3], Some(80)));
    }

    #[test]
    fn an_interrupted_budget_freezes_as_one_that_was_not() {
        for step in [9, 10, 29, 30, 60] {
            for budget in [94_000.0, 88_800.0, 79_000.0] {
                let gains = [0.1, 0.02, 0.2];
                assert_eq!(freezes(budget, gains, Some(step)), freezes(budget, gains, None), "{step}");
            }
        }
    }
}
