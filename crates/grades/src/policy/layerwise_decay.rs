//! Layer-wise decay of the learning rate (Howard and Ruder 2018, arXiv 1801.06146; Clark et al. 2020): what lies lower
//! moves less. Nothing freezes; a method beside the others because it also says which layers learn, and how much.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, RatePart, check_run_of};
use crate::check::{ConfigError, check_run, require};
use crate::decision::{Decision, Wants};
use crate::state::{RestoreError, check_units};
use crate::unit::{Tower, UnitId};

const NAME: &str = "layerwise_decay";

/// The options of `method: layerwise_decay`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LayerwiseDecayConfig {
    /// What the learning rate of a layer is multiplied by for each step down from the head, in (0, 1]. Of L layers, layer l,
    /// counted from 0, gets `decay^(L − l)`, the embedding (one that is tied to the head, too) `decay^(L + 1)`, the final norm
    /// and the head 1, as in BEiT. Default: 0.9, as ELECTRA's large model, which is as deep as today's small language models;
    /// 0.65 to 0.8 is usual for 12 layers.
    pub decay: f64,
}

impl Default for LayerwiseDecayConfig {
    fn default() -> Self {
        Self { decay: 0.9 }
    }
}

impl Method for LayerwiseDecayConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self) -> Result<(), ConfigError> {
        require(self.decay > 0.0 && self.decay <= 1.0, "decay", self.decay, "above 0 and at most 1")
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(LayerwiseDecay::new(self.clone(), units, planned_steps)?))
    }
}

/// Trains all of a model to the planned end, each layer at a rate of its own.
#[derive(Debug, Clone)]
pub struct LayerwiseDecay {
    memory: LayerwiseDecayState,
    /// The number of layers of each tower.
    layers: BTreeMap<Tower, usize>,
}

/// The memory of [`LayerwiseDecay`]: what it must find again to be the same run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerwiseDecayState {
    config: LayerwiseDecayConfig,
    planned_steps: usize,
    units: BTreeSet<UnitId>,
}

impl LayerwiseDecay {
    /// The policy for a run of `planned_steps` optimizer steps over these units.
    ///
    /// # Errors
    /// If the option is out of range, or there are no units or steps.
    pub fn new(config: LayerwiseDecayConfig, units: &[UnitId], planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        check_run(units, planned_steps)?;
        let mut layers = BTreeMap::new();
        for unit in units {
            let count = layers.entry(unit.tower).or_insert(0);
            *count = unit.layer.saturating_add(1).max(*count);
        }
        let units = units.iter().copied().collect();
        Ok(Self { memory: LayerwiseDecayState { config, planned_steps, units }, layers })
    }
}

impl Policy for LayerwiseDecay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, _step: usize) -> Wants {
        Wants::default()
    }

    fn observe(&mut self, step: usize, _observation: &Observation<'_>) -> Decision {
        Decision { step, ..Decision::default() }
    }

    fn rate_factor(&self, _step: usize, part: RatePart) -> f64 {
        // How far below the head, which is 0; a tower without units has no layers to count from.
        let below = |tower| self.layers.get(&tower).copied().unwrap_or(0);
        let depth = match part {
            RatePart::Rest => 0,
            RatePart::Layer { tower, layer } => below(tower).saturating_sub(layer),
            RatePart::Embedding { tower } | RatePart::TiedEmbedding { tower } => {
                self.layers.get(&tower).map_or(0, |layers| layers + 1)
            }
        };
        self.memory.config.decay.powf(depth as f64)
    }

    fn in_force(&self) -> Decision {
        Decision::default()
    }

    fn state(&self) -> PolicyState {
        let memory = PolicyMemory::new(NAME, &self.memory);
        PolicyState { memory, cost: Cost::default(), buffers: BTreeMap::new() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        let saved: LayerwiseDecayState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.memory.config, self.memory.planned_steps))?;
        check_units(&saved.units, &self.memory.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Role;

    const LANGUAGE: Tower = Tower::Language;

    fn policy(decay: f64) -> LayerwiseDecay {
        let language = (0..3).flat_map(|layer| [Role::Q, Role::Down].map(|role| UnitId::language(layer, role)));
        let units: Vec<_> = [UnitId::vision(0, Role::Fc1)].into_iter().chain(language).collect();
        LayerwiseDecay::new(LayerwiseDecayConfig { decay }, &units, 10).unwrap()
    }

    #[test]
    fn factors_fall_from_the_head_down_as_by_hand() {
        let half = policy(0.5);
        let layer = |tower, layer| RatePart::Layer { tower, layer };
        for step in [1, 7, 10] {
            let factor = |part| half.rate_factor(step, part);
            assert_eq!([2, 1, 0].map(|l| factor(layer(LANGUAGE, l))), [0.5, 0.25, 0.125]);
            assert_eq!(factor(RatePart::Embedding { tower: LANGUAGE }), 0.0625);
            assert_eq!(factor(RatePart::TiedEmbedding { tower: LANGUAGE }), 0.0625);
            assert_eq!(factor(RatePart::Rest), 1.0);
            // One layer, counted from its own end.
            assert_eq!(factor(layer(Tower::Vision, 0)), 0.5);
            assert_eq!(factor(RatePart::Embedding { tower: Tower::Vision }), 0.25);
            assert_eq!(factor(RatePart::Embedding { tower: "audio".parse().unwrap() }), 1.0);
        }
        assert_eq!(policy(1.0).rate_factor(1, RatePart::Embedding { tower: LANGUAGE }), 1.0);
    }

    #[test]
    fn nothing_is_asked_for_and_nothing_freezes() {
        let mut policy = policy(0.9);
        for step in 0..=10 {
            assert!(policy.wants(step).is_idle());
            assert_eq!(policy.observe(step, &Observation::default()), Decision { step, ..Decision::default() });
        }
        assert_eq!((policy.in_force(), policy.cost()), (Decision::default(), Cost::default()));
    }

    #[test]
    fn another_decay_or_model_is_not_resumed() {
        let state = policy(0.9).state();
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(policy(0.9).restore(serde_json::from_str(&json).unwrap()), Ok(()));
        assert!(matches!(policy(0.8).restore(state.clone()), Err(RestoreError::Config { .. })));
        let mut other = LayerwiseDecay::new(LayerwiseDecayConfig::default(), &[UnitId::language(0, Role::Q)], 10);
        assert!(other.as_mut().unwrap().restore(state).is_err());
    }
}
