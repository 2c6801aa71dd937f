//! LISA (Pan et al. 2024, arXiv 2403.17919): a few layers at a time train, drawn anew every so many steps; the embedding and
//! the head train always.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::contract::{Method, Observation, Policy, PolicyState, RunFacts};
use super::step_memory::StepMemory;
use crate::check::{ConfigError, check_run, require};
use crate::companion::Companion;
use crate::decision::{Decision, Wants};
use crate::state::RestoreError;
use crate::unit::{Tower, UnitId};

const NAME: &str = "lisa";

/// The options of `method: lisa`, under LMFlow's and Axolotl's names without their prefix where those agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LisaConfig {
    /// How many layers of the language tower train at a time (γ; `lisa_n_layers` of Axolotl, `lisa_activated_layers` of
    /// LMFlow). Default: 2, as in its paper.
    #[serde(alias = "lisa_n_layers", alias = "lisa_activated_layers", alias = "n_layers", alias = "activated_layers")]
    pub active_layers: usize,
    /// Steps after which they are drawn anew (K; `lisa_step_interval` of Axolotl, `lisa_interval_steps` of LMFlow). Default: 20, as
    /// in LMFlow.
    #[serde(alias = "lisa_step_interval", alias = "lisa_interval_steps", alias = "step_interval")]
    pub interval_steps: usize,
    /// What they are drawn from. Default: the run's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Default for LisaConfig {
    fn default() -> Self {
        Self { active_layers: 2, interval_steps: 20, seed: None }
    }
}

impl Method for LisaConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn unfreezes(&self) -> bool {
        true
    }

    fn fill_in(&mut self, facts: &RunFacts) {
        self.seed.get_or_insert(facts.seed);
    }

    fn validate(&self) -> Result<(), ConfigError> {
        require(self.active_layers >= 1, "active_layers", self.active_layers as f64, "at least 1")?;
        require(self.interval_steps >= 1, "interval_steps", self.interval_steps as f64, "at least 1")
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(Lisa::new(self.clone(), units, planned_steps)?))
    }
}

/// Lets a few layers train at a time.
///
/// Period k, of the steps from k K + 1 to (k + 1) K, trains γ layers of the language tower, drawn without replacement; all
/// others of that tower are frozen with their norms. What leaves loses its optimizer state, as in its paper. Other towers,
/// the embedding, the final norm and the head train throughout.
#[derive(Debug, Clone)]
pub struct Lisa {
    memory: StepMemory<LisaConfig>,
    /// The layers to draw from.
    layers: Vec<usize>,
}

impl Lisa {
    /// The policy for a run of `planned_steps` optimizer steps over these units.
    ///
    /// # Errors
    /// If an option is out of range, or there are no units or steps.
    pub fn new(config: LisaConfig, units: &[UnitId], planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        check_run(units, planned_steps)?;
        let language = units.iter().filter(|unit| unit.tower == Tower::Language);
        let layers = language.map(|unit| unit.layer).collect::<BTreeSet<usize>>().into_iter().collect();
        Ok(Self { memory: StepMemory::new(config, units, planned_steps), layers })
    }

    /// The layers that train in the step after `step`.
    fn active_after(&self, step: usize) -> BTreeSet<usize> {
        let LisaConfig { active_layers, interval_steps, seed } = self.memory.config;
        let mut random = ChaCha8Rng::seed_from_u64(seed.unwrap_or(0));
        random.set_stream((step / interval_steps) as u64);
        let count = active_layers.min(self.layers.len());
        index::sample(&mut random, self.layers.len(), count).into_iter().map(|index| self.layers[index]).collect()
    }

    /// The units and norms of these layers.
    fn of_layers(&self, layers: &BTreeSet<usize>) -> (Vec<UnitId>, Vec<Companion>) {
        let within = |unit: &&UnitId| unit.tower == Tower::Language && layers.contains(&unit.layer);
        let units = self.memory.units.iter().filter(within).copied().collect();
        let norms = layers.iter().map(|&layer| Companion::Norms { tower: Tower::Language, layer }).collect();
        (units, norms)
    }

    /// The layers that do not train in the step after `step`.
    fn frozen_after(&self, step: usize) -> BTreeSet<usize> {
        let active = self.active_after(step);
        self.layers.iter().filter(|layer| !active.contains(layer)).copied().collect()
    }
}

impl Policy for Lisa {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let every = self.memory.config.interval_steps;
        let end_of_step = step > 0 && step < self.memory.planned_steps && step.is_multiple_of(every);
        Wants { end_of_step, ..Wants::default() }
    }

    fn observe(&mut self, step: usize, _observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if step <= self.memory.last_step {
            return decision;
        }
        let (before, now) = (self.frozen_after(self.memory.last_step), self.frozen_after(step));
        self.memory.last_step = step;
        (decision.freeze, decision.freeze_companions) = self.of_layers(&(&now - &before));
        (decision.unfreeze, decision.unfreeze_companions) = self.of_layers(&(&before - &now));
        decision
    }

    fn in_force(&self) -> Decision {
        let step = self.memory.last_step;
        let (freeze, freeze_companions) = self.of_layers(&self.frozen_after(step));
        Decision { step, freeze, freeze_companions, ..Decision::default() }
    }

    fn state(&self) -> PolicyState {
        self.memory.state(NAME)
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        self.memory.restore(NAME, state)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::unit::Role;

    fn units(layers: usize) -> Vec<UnitId> {
        let language = (0..layers).flat_map(|layer| [Role::Q, Role::Down].map(|role| UnitId::language(layer, role)));
        [UnitId::vision(0, Role::Fc1)].into_iter().chain(language).collect()
    }

    fn policy(active_layers: usize, interval_steps: usize, seed: u64, layers: usize, steps: usize) -> Lisa {
        let config = LisaConfig { active_layers, interval_steps, seed: Some(seed) };
        Lisa::new(config, &units(layers), steps).unwrap()
    }

    /// What is frozen in each step of a run, as a training loop would have it, with the decisions.
    fn run(policy: &mut Lisa, steps: usize) -> (Vec<BTreeSet<UnitId>>, Vec<Decision>) {
        let mut frozen: BTreeSet<UnitId> = policy.in_force().freeze.into_iter().collect();
        let (mut all, mut decisions) = (Vec::new(), Vec::new());
        for step in 1..=steps {
            all.push(frozen.clone());
            if policy.wants(step).end_of_step {
                let decision = policy.observe(step, &Observation::default());
                assert!(decision.freeze.iter().all(|unit| frozen.insert(*unit)), "frozen twice at {step}");
                assert!(decision.unfreeze.iter().all(|unit| frozen.remove(unit)), "not frozen at {step}");
                assert_eq!(policy.in_force().freeze, frozen.iter().copied().collect::<Vec<_>>());
                decisions.push(decision);
            }
        }
        (all, decisions)
    }

    proptest! {
        #[test]
        fn so_many_layers_train_in_every_step_and_nothing_else_freezes(
            (active, interval, seed, layers, steps) in (1..5_usize, 1..6_usize, any::<u64>(), 1..9_usize, 1..30_usize)
        ) {
            let (frozen, decisions) = run(&mut policy(active, interval, seed, layers, steps), steps);
            for frozen in &frozen {
                prop_assert!(frozen.iter().all(|unit| unit.tower == Tower::Language));
                // Whole layers, of two matrices each.
                prop_assert_eq!(frozen.len(), 2 * (layers - active.min(layers)));
                let of: BTreeSet<usize> = frozen.iter().map(|unit| unit.layer).collect();
                prop_assert_eq!(of.len(), layers - active.min(layers));
            }
            // They change with their period alone.
            for period in frozen.chunks(interval) {
                prop_assert!(period.iter().all(|frozen| *frozen == period[0]));
            }
            for decision in decisions {
                let norms = |units: &[UnitId]| {
                    let layers: BTreeSet<usize> = units.iter().map(|unit| unit.layer).collect();
                    layers.into_iter().map(|layer| Companion::Norms { tower: Tower::Language, layer }).collect::<Vec<_>>()
                };
                prop_assert_eq!(&decision.freeze_companions, &norms(&decision.freeze));
                prop_assert_eq!(&decision.unfreeze_companions, &norms(&decision.unfreeze));
                prop_assert_eq!(decision.stop, None);
            }
        }
    }

    #[test]
    fn every_layer_has_its_turn_equally_often() {
        // 1,000 periods, 2 of 8 layers: 250 turns each, with a deviation of √(1000 · ¼ · ¾) = 13.7.
        let policy = policy(2, 1, 7, 8, 1001);
        let mut turns = [0; 8];
        for step in 0..1000 {
            policy.active_after(step).into_iter().for_each(|layer| turns[layer] += 1);
        }
        assert_eq!(turns.iter().sum::<usize>(), 2000);
        assert!(turns.iter().all(|count| (190..310).contains(count)), "{turns:?}");
    }

    #[test]
    fn draws_are_those_of_the_seed_and_the_run_gives_one() {
        let drawn = |seed| (0..20).map(|step| policy(2, 1, seed, 8, 30).active_after(step)).collect::<Vec<_>>();
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let facts = RunFacts { seed: 5, ..RunFacts::default() };
        let mut config = LisaConfig::default();
        config.fill_in(&facts);
        assert_eq!(config.seed, Some(5));
        let mut written = LisaConfig { seed: Some(3), ..LisaConfig::default() };
        written.fill_in(&facts);
        assert_eq!(written.seed, Some(3));
    }

    #[test]
    fn more_layers_than_there_are_is_all_of_them() {
        let mut all = policy(9, 2, 1, 4, 10);
        let (frozen, decisions) = run(&mut all, 10);
        assert!(frozen.iter().all(BTreeSet::is_empty));
        let nothing = |decision: &Decision| *decision == Decision { step: decision.step, ..Decision::default() };
        assert!(decisions.len() == 4 && decisions.iter().all(nothing));
    }

    #[test]
    fn a_restored_run_goes_on_as_the_uninterrupted_one() {
        let new = || policy(2, 3, 11, 6, 20);
        let mut whole = new();
        let (_, expected) = run(&mut whole, 20);
        assert_eq!(expected.len(), 6);
        for cut in 0..=expected.len() {
            let mut first = new();
            for decision in &expected[..cut] {
                first.observe(decision.step, &Observation::default());
            }
            let json = serde_json::to_string(&first.state()).unwrap();
            let mut second = new();
            second.restore(serde_json::from_str(&json).unwrap()).unwrap();
            assert_eq!(second.in_force(), first.in_force());
            for expected in &expected[cut..] {
                assert_eq!(second.observe(expected.step, &Observation::default()), *expected);
            }
        }
        assert!(matches!(policy(2, 3, 12, 6, 20).restore(whole.state()), Err(RestoreError::Config { .. })));
    }
}
