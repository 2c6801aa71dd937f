//! FreezeOut (Brock et al. 2017, arXiv 1706.04983): the learning rate of each layer falls to 0 on its own schedule, the
//! first layer's first, and a layer whose rate is 0 freezes.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::contract::{Method, Observation, Policy, PolicyState, RatePart};
use super::step_memory::StepMemory;
use crate::check::{ConfigError, check_run, require};
use crate::companion::{Companion, Companions};
use crate::config::share_of_steps;
use crate::decision::{Decision, Wants};
use crate::state::RestoreError;
use crate::unit::{Tower, UnitId};

const NAME: &str = "freezeout";

/// The options of `method: freezeout`. The rates of its layers take the place of the schedule's fall: set
/// `lr_scheduler: constant`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FreezeOutConfig {
    /// Share of the planned steps after which the first layer freezes, in (0, 1], before `strategy: cubic` takes it to the
    /// third power. The last layer, the final norm and the head train to the end, and what lies between is spaced evenly.
    /// Default: 0.8, which with `cubic` is 0.51 of the steps.
    pub t0: f64,
    /// How the shares run from the first layer to the last: `linear`, or `cubic` (default), their third power, which
    /// freezes the first layers earlier and the last ones later.
    pub strategy: Strategy,
    /// Whether a layer's rate starts at one over its share, so that all layers move as far. Default: true.
    pub scale_rates: bool,
}

/// How the times at which layers freeze are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Evenly.
    Linear,
    /// The third power of the even spacing.
    #[default]
    Cubic,
}

impl Default for FreezeOutConfig {
    fn default() -> Self {
        Self { t0: 0.8, strategy: Strategy::Cubic, scale_rates: true }
    }
}

impl Method for FreezeOutConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self) -> Result<(), ConfigError> {
        require(self.t0 > 0.0 && self.t0 <= 1.0, "t0", self.t0, "above 0 and at most 1")
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(FreezeOut::new(self.clone(), units, planned_steps)?))
    }
}

type Layer = (Tower, usize);

/// Freezes layers from the front at steps that are known before the run.
///
/// Layer i of L, over all towers in the order of the data, has the share tᵢ = t0 + (1 − t0) · i / (L − 1), to the third
/// power with `cubic`. Its rate in the update of step s, with j = s − 1 updates before it, is multiplied by
/// ½ · (1 + cos(π · j / (tᵢ T))), and by 1 / tᵢ with `scale_rates`; after ⌈tᵢ T⌉ steps it freezes with its norms, after layer
/// 0 the embedding of its tower. An embedding that is the head too has the head's rate, and trains on as head.
#[derive(Debug, Clone)]
pub struct FreezeOut {
    memory: StepMemory<FreezeOutConfig>,
    /// The share of the steps that each layer trains.
    shares: BTreeMap<Layer, f64>,
}

impl FreezeOut {
    /// The policy for a run of `planned_steps` optimizer steps over these units.
    ///
    /// # Errors
    /// If an option is out of range, or there are no units or steps.
    pub fn new(config: FreezeOutConfig, units: &[UnitId], planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        check_run(units, planned_steps)?;
        let layers: BTreeSet<Layer> = units.iter().map(|unit| (unit.tower, unit.layer)).collect();
        let last = (layers.len() - 1).max(1) as f64;
        let share = |index: usize| {
            let even = config.t0 + (1.0 - config.t0) * index as f64 / last;
            match config.strategy {
                Strategy::Linear => even,
                Strategy::Cubic => even.powi(3),
            }
        };
        // A single layer is the last one.
        let first = if layers.len() == 1 { 1 } else { 0 };
        let shares = layers.into_iter().zip(first..).map(|(layer, index)| (layer, share(index))).collect();
        Ok(Self { memory: StepMemory::new(config, units, planned_steps), shares })
    }

    /// The last step whose update a layer gets.
    fn end(&self, layer: Layer) -> usize {
        share_of_steps(self.shares.get(&layer).copied().unwrap_or(1.0), self.memory.planned_steps)
    }

    /// What is frozen after a step. The last layer trains to the end.
    fn frozen_after(&self, step: usize) -> (BTreeSet<UnitId>, BTreeSet<Companion>) {
        let ends = |unit: &&UnitId| {
            let end = self.end((unit.tower, unit.layer));
            end <= step && end < self.memory.planned_steps
        };
        let frozen: BTreeSet<UnitId> = self.memory.units.iter().filter(ends).copied().collect();
        let companions = Companions::Follow.frozen_with(&self.memory.units, &frozen);
        (frozen, companions)
    }
}

impl Policy for FreezeOut {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let ends = step < self.memory.planned_steps && self.shares.keys().any(|layer| self.end(*layer) == step);
        Wants { end_of_step: ends, ..Wants::default() }
    }

    fn observe(&mut self, step: usize, _observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if step <= self.memory.last_step {
            return decision;
        }
        let before = self.frozen_after(self.memory.last_step);
        let now = self.frozen_after(step);
        self.memory.last_step = step;
        decision.freeze = now.0.difference(&before.0).copied().collect();
        decision.freeze_companions = now.1.difference(&before.1).copied().collect();
        decision
    }

    fn rate_factor(&self, step: usize, part: RatePart) -> f64 {
        let share = match part {
            // As head it trains to the end.
            RatePart::Rest | RatePart::TiedEmbedding { .. } => None,
            RatePart::Layer { tower, layer } => self.shares.get(&(tower, layer)),
            RatePart::Embedding { tower } => self.shares.get(&(tower, 0)),
        };
        let share = share.copied().unwrap_or(1.0);
        let done = step.saturating_sub(1) as f64 / (share * self.memory.planned_steps as f64);
        let start = if self.memory.config.scale_rates { 1.0 / share } else { 1.0 };
        start * 0.5 * (1.0 + (PI * done.min(1.0)).cos())
    }

    fn in_force(&self) -> Decision {
        let step = self.memory.last_step;
        let (frozen, companions) = self.frozen_after(step);
        Decision {
            step,
            freeze: frozen.into_iter().collect(),
            freeze_companions: companions.into_iter().collect(),
            ..Decision::default()
        }
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
    use super::*;
    use crate::unit::Role;

    fn unit(layer: usize) -> UnitId {
        UnitId::language(layer, Role::Q)
    }

    fn policy(config: FreezeOutConfig, layers: usize, planned_steps: usize) -> FreezeOut {
        FreezeOut::new(config, &(0..layers).map(unit).collect::<Vec<_>>(), planned_steps).unwrap()
    }

    fn even() -> FreezeOutConfig {
        FreezeOutConfig { t0: 0.5, strategy: Strategy::Linear, scale_rates: false }
    }

    /// The step of each freeze, in the order of the layers, where a run asks.
    fn freezes(policy: &mut FreezeOut) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for step in 0..=policy.memory.planned_steps {
            if policy.wants(step).end_of_step {
                found.extend(policy.observe(step, &Observation::default()).freeze.iter().map(|u| (u.layer, step)));
            }
        }
        found
    }

    #[test]
    fn layers_freeze_at_their_shares_as_by_hand() {
        // Shares 1/2, 3/4, 1 of 8 steps; to the third power 1/8, 27/64 (3.375 steps), 1.
        assert_eq!(freezes(&mut policy(even(), 3, 8)), [(0, 4), (1, 6)]);
        let cubic = FreezeOutConfig { strategy: Strategy::Cubic, ..even() };
        assert_eq!(freezes(&mut policy(cubic, 3, 8)), [(0, 1), (1, 4)]);
        assert_eq!(freezes(&mut policy(even(), 1, 8)), []);
        assert_eq!(freezes(&mut policy(FreezeOutConfig { t0: 1.0, ..even() }, 3, 8)), []);
    }

    #[test]
    fn norms_and_the_embedding_follow() {
        let mut policy = policy(even(), 3, 8);
        let norms = Companion::Norms { tower: Tower::Language, layer: 0 };
        let embedding = Companion::Embedding { tower: Tower::Language };
        assert_eq!(policy.observe(4, &Observation::default()).freeze_companions, [norms, embedding]);
        assert_eq!(policy.frozen(), [unit(0)]);
    }

    #[test]
    fn rates_fall_by_a_cosine_to_the_end_of_their_layer() {
        let layer = |layer| RatePart::Layer { tower: Tower::Language, layer };
        let plain = policy(even(), 3, 8);
        // Layer 0 trains for 4 steps: cos 0, π/4, π/2, 3π/4, then π and no further.
        let root = 0.5_f64.sqrt();
        let expected = [1.0, 0.5 + 0.5 * root, 0.5, 0.5 - 0.5 * root, 0.0, 0.0];
        for (step, expected) in (1..).zip(expected) {
            for part in [layer(0), RatePart::Embedding { tower: Tower::Language }] {
                assert!((plain.rate_factor(step, part) - expected).abs() < 1e-15, "{step}");
            }
        }
        // Step 7 of layer 1 is the first after its 6; the last layer and the head fall over all 8.
        assert!(plain.rate_factor(6, layer(1)) > 0.0 && plain.rate_factor(7, layer(1)) < 1e-15);
        for part in [layer(2), RatePart::Rest, RatePart::TiedEmbedding { tower: Tower::Language }] {
            assert!((plain.rate_factor(5, part) - 0.5).abs() < 1e-15);
        }
        let scaled = policy(FreezeOutConfig { scale_rates: true, ..even() }, 3, 8);
        assert!((scaled.rate_factor(3, layer(0)) - 1.0).abs() < 1e-15);
        assert_eq!((scaled.rate_factor(1, layer(1)), scaled.rate_factor(1, layer(2))), (4.0 / 3.0, 1.0));
    }

    #[test]
    fn a_restored_run_goes_on_as_the_uninterrupted_one() {
        let decide = |policy: &mut FreezeOut, step| policy.observe(step, &Observation::default());
        let config = FreezeOutConfig { t0: 0.3, strategy: Strategy::Linear, scale_rates: true };
        let new = || policy(config.clone(), 5, 20);
        let mut whole = new();
        let steps: Vec<usize> = (1..=20).filter(|step| whole.wants(*step).end_of_step).collect();
        let expected: Vec<_> = steps.iter().map(|step| decide(&mut whole, *step)).collect();
        assert_eq!(steps.len(), 4);
        for cut in 0..=steps.len() {
            let mut first = new();
            steps[..cut].iter().for_each(|step| drop(decide(&mut first, *step)));
            let json = serde_json::to_string(&first.state()).unwrap();
            let mut second = new();
            second.restore(serde_json::from_str(&json).unwrap()).unwrap();
            assert_eq!(second.in_force(), first.in_force());
            for (step, expected) in steps.iter().zip(&expected).skip(cut) {
                assert_eq!(decide(&mut second, *step), *expected);
            }
        }
        assert!(matches!(policy(even(), 5, 20).restore(whole.state()), Err(RestoreError::Config { .. })));
        assert!(matches!(policy(config.clone(), 5, 21).restore(whole.state()), Err(RestoreError::PlannedSteps { .. })));
    }
}
