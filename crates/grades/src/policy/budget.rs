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
//!
//! A budget of memory is met by freezing alone: those that gain least for the bytes of their gradients, optimizer state and averages, until
//! what is left of these fits. It holds from the first decision on, forty steps after the warm-up at the latest; before, nothing is known of gains.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, RunFacts, Spent, check_run_of};
use crate::check::{ConfigError, require};
use crate::decision::{Decision, Plan, Wants, Worth};
use crate::event::StopReason;
use crate::exact;
use crate::gain::{GainAverage, StepGains};
use crate::state::{RestoreError, check_units};
use crate::unit::UnitId;

const NAME: &str = "budget";

/// The options of `method: budget`. At least one of them is required; the first that is spent ends the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Floating-point operations of training, validation and monitoring. The run ends after the step that brings it nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// Seconds of the steps with validation. The run ends after the step that brings it nearest; a resumed run goes on
    /// counting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Bytes of gradients, optimizer state and averages. From the first decision after the warm-up on, matrices are frozen so that no more
    /// is held, those first that gain least for their bytes. With AdamW, which tells gains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
    /// Whether matrices freeze where that loses less than an earlier end: those that gain least for their arithmetic, after the
    /// warm-up, so that the planned steps fit into the budget. With AdamW, which tells gains. Default: false.
    pub freeze: bool,
    /// Steps of learning-rate warm-up, in which nothing freezes. Default: those of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
}

impl BudgetConfig {
    /// Whether single matrices freeze, for which the gains of updates are needed.
    pub fn weighs(&self) -> bool {
        self.freeze || self.memory.is_some()
    }
}

/// Steps from one decision about matrices to the next.
const EVERY: usize = 20;

impl Method for BudgetConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.flops.is_none() && self.seconds.is_none() && self.memory.is_none() {
            return Err(ConfigError::NoBudget);
        }
        for (key, value) in [("flops", self.flops), ("seconds", self.seconds), ("memory", self.memory)] {
            let value = value.unwrap_or(1.0);
            require(value > 0.0 && value.is_finite(), key, value, "a positive number")?;
        }
        Ok(())
    }

    fn fill_in(&mut self, facts: &RunFacts) {
        if self.weighs() {
            self.warmup_steps.get_or_insert(facts.warmup_steps);
        }
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        self.validate()?;
        let units = units.iter().map(|unit| (*unit, OfUnit::default())).collect();
        let memory = Memory { stopped: false, since: None, gain: GainAverage::default(), bytes: 0, units };
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
    /// What gradients, optimizer state and averages took at the last gains.
    bytes: u64,
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
    /// What its freezing frees.
    bytes: u64,
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

    /// The units that train, by what they gain for their share of a cost, the least first. Those without a share of it cannot save any.
    fn by_worth(&self, share: impl Fn(&OfUnit) -> f64) -> Vec<Worth> {
        let train = self.memory.units.iter().filter(|(_, unit)| !unit.frozen);
        let worth = |(id, unit): (&UnitId, &OfUnit)| {
            let share = share(unit);
            (share > 0.0).then(|| Worth { unit: *id, worth: unit.gain.mean() / share, freezes: false })
        };
        let mut order: Vec<Worth> = train.filter_map(worth).collect();
        order.sort_by(|a, b| a.worth.total_cmp(&b.worth));
        order
    }

    /// The units to freeze so that `lacks` of a step's arithmetic is saved, as far as each loses less than an earlier end.
    fn for_arithmetic(&self, mut lacks: f64) -> Plan {
        let gain = self.memory.gain.mean();
        let mut order = self.by_worth(|unit| unit.saves);
        for worth in order.iter_mut().filter(|worth| worth.worth < gain) {
            worth.freezes = lacks > 0.0;
            lacks -= self.memory.units[&worth.unit].saves;
        }
        Plan { gain, order }
    }

    /// The units to freeze so that what is held fits into so many bytes.
    fn for_memory(&self, budget: f64) -> Plan {
        let held = self.memory.bytes as f64;
        let mut order = self.by_worth(|unit| unit.bytes as f64 / held);
        let mut lacks = held - budget;
        for worth in &mut order {
            worth.freezes = lacks > 0.0;
            lacks -= self.memory.units[&worth.unit].bytes as f64;
        }
        Plan { gain: self.memory.gain.mean(), order }
    }

    /// What freezes now, where anything has to.
    fn plan(&self, step: usize, spent: Spent, since: (usize, Spent)) -> Option<Plan> {
        let fits = |plan: &Plan| !plan.order.iter().any(|worth| worth.freezes);
        let memory = self.config.memory.map(|bytes| self.for_memory(bytes)).filter(|plan| !fits(plan));
        // What memory has frozen saves arithmetic, too: the next decision knows of it.
        memory.or_else(|| {
            let plan = self.config.freeze.then(|| self.for_arithmetic(self.lacks(step, spent, since)));
            plan.filter(|plan| !fits(plan))
        })
    }
}

impl Policy for Budget {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let runs = step > 0 && !self.memory.stopped;
        Wants { decide: runs, gain: runs && step > 1 && self.config.weighs(), ..Wants::default() }
    }

    fn observe_gains(&mut self, _step: usize, gains: &StepGains<'_>) {
        let memory = &mut self.memory;
        if !gains.total().is_finite() || gains.flops == 0 {
            return;
        }
        memory.gain.add(gains.total());
        memory.bytes = gains.bytes;
        for of in gains.units {
            if let Some(unit) = memory.units.get_mut(&of.unit) {
                unit.gain.add(of.gain);
                unit.saves = of.saves as f64 / gains.flops as f64;
                unit.bytes = of.bytes;
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
        if self.config.weighs() && after_warmup.is_some_and(|step| step.is_multiple_of(EVERY)) {
            if let Some(since) = self.memory.since.filter(|(since, _)| *since < step) {
                decision.plan = self.plan(step, observed, since);
            }
            self.memory.since = Some((step, observed));
            let chosen = decision.plan.iter().flat_map(|plan| &plan.order).filter(|worth| worth.freezes);
            decision.freeze = chosen.map(|worth| worth.unit).collect();
            decision.freeze.sort();
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
            let of: Vec<_> = train.map(|i| UnitGain { unit: units[i], gain: gains[i], saves: 100, bytes: 0 }).collect();
            policy.observe_gains(step, &StepGains { units: &of, others: 1.0, flops: cost, bytes: 0 });
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

    /// 100 steps of matrices of 40, 30 and 30 bytes beside 20 of the rest: when each froze.
    fn freezes_for_memory(budget: f64, gains: [f64; 3], interrupted: Option<usize>) -> [Option<usize>; 3] {
        let units = ROLES.map(|role| UnitId::language(0, role));
        let config = BudgetConfig { memory: Some(budget), warmup_steps: Some(10), ..BudgetConfig::default() };
        let mut policy = config.build(&units, 100).unwrap();
        let (mut frozen, of_unit) = ([None; 3], [40, 30, 30]);
        for step in 1..=100 {
            let decision = policy.observe(step, &Observation::default());
            assert_eq!(decision.stop, None);
            assert_eq!(decision.plan.is_some(), !decision.freeze.is_empty());
            for unit in &decision.freeze {
                frozen[units.iter().position(|other| other == unit).unwrap()] = Some(step);
            }
            assert!(policy.wants(step + 1).gain);
            let train: Vec<usize> = (0..3).filter(|&i| frozen[i].is_none()).collect();
            let of = |&i: &usize| UnitGain { unit: units[i], gain: gains[i], saves: 100, bytes: of_unit[i] };
            let of: Vec<_> = train.iter().map(of).collect();
            let bytes = 20 + train.iter().map(|&i| of_unit[i]).sum::<u64>();
            policy.observe_gains(step, &StepGains { units: &of, others: 1.0, flops: 1000, bytes });
            if interrupted == Some(step) {
                let json = serde_json::to_string(&policy.state()).unwrap();
                policy = config.build(&units, 100).unwrap();
                policy.restore(serde_json::from_str(&json).unwrap()).unwrap();
            }
        }
        frozen
    }

    #[test]
    fn memory_is_kept_by_freezing_what_gains_least_for_its_bytes() {
        // Of 120 bytes; by byte the first gains 0.0025, the second 0.004, the third 0.003, which in all gains least.
        let gains = [0.10, 0.12, 0.09];
        for interrupted in [None, Some(9), Some(29), Some(30)] {
            let frozen = |budget| freezes_for_memory(budget, gains, interrupted);
            assert_eq!(frozen(120.0), [None; 3]);
            assert_eq!(frozen(119.0), [Some(30), None, None]);
            assert_eq!(frozen(80.0), [Some(30), None, None]);
            assert_eq!(frozen(79.0), [Some(30), None, Some(30)]);
            // The rest alone does not fit; all that can freeze does.
            assert_eq!(frozen(10.0), [Some(30); 3]);
        }
        assert!(BudgetConfig { memory: Some(0.0), ..BudgetConfig::default() }.validate().is_err());
    }

    #[test]
    fn the_plan_names_every_matrix_and_those_that_freeze() {
        let units = ROLES.map(|role| UnitId::language(0, role));
        let config = BudgetConfig { freeze: true, ..of_flops(22_500.0) };
        let mut policy = config.build(&units, 100).unwrap();
        for step in 1..=60 {
            let spent = Spent { flops: 250 * step as u64, seconds: 0.0 };
            let decision = policy.observe(step, &Observation { spent, ..Observation::default() });
            let gains = [0.3, 0.02, 0.01];
            let of: Vec<_> = (0..3).map(|i| UnitGain { unit: units[i], gain: gains[i], saves: 25, bytes: 0 }).collect();
            policy.observe_gains(step, &StepGains { units: &of, others: 0.17, flops: 250, bytes: 0 });
            let Some(plan) = decision.plan else { continue };
            // 12,500 are left for 60 steps of 250, which is 0.17 too little; each matrix saves a tenth.
            assert_eq!((step, decision.freeze), (40, vec![units[1], units[2]]));
            let order: Vec<_> = plan.order.iter().map(|worth| (worth.unit, worth.freezes)).collect();
            assert_eq!(order, [(units[2], true), (units[1], true), (units[0], false)]);
            assert!((plan.gain - 0.5).abs() < 1e-12 && (plan.order[0].worth - 0.1).abs() < 1e-12);
            let text = plan.to_string();
            assert!(text.contains("2 of 3 matrices") && text.ends_with("language.0.up, language.0.v"), "{text}");
            return;
        }
        panic!("no plan");
    }
}
