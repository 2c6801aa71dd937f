//! LoRAF (Zhang et al. 2025): A stays at its random initialisation; B trains dense, then only where it has grown most.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, check_run_of, take_buffer};
use crate::check::{ConfigError, check_run, require};
use crate::config::share_of_steps;
use crate::decision::{Decision, Mask, PartId, Wants};
use crate::state::{RestoreError, check_units};
use crate::unit::UnitId;

const NAME: &str = "loraf";

/// The options of `method: loraf`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LorafConfig {
    /// Share of the elements of all B that are set to zero, in [0, 1). Default: 0.9.
    pub sparsity: f64,
    /// Share of the planned steps during which B trains dense, in (0, 1]. Default: 0.5.
    pub dense_share: f64,
}

impl Default for LorafConfig {
    fn default() -> Self {
        Self { sparsity: 0.9, dense_share: 0.5 }
    }
}

impl Method for LorafConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs_lora(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let (sparsity, dense) = (self.sparsity, self.dense_share);
        require((0.0..1.0).contains(&sparsity), "sparsity", sparsity, "a number from 0 up to, but not including, 1")?;
        require(dense > 0.0 && dense <= 1.0, "dense_share", dense, "above 0 and at most 1")
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(Loraf::new(self.clone(), units, planned_steps)?))
    }
}

/// Freezes A of every adapter pair from the start and masks B once.
///
/// After the dense steps the ⌈(1 − `sparsity`)·n⌉ elements of all n elements of B that are largest in magnitude are
/// kept; among equals the first. Elements that are not finite are not kept.
#[derive(Debug, Clone)]
pub struct Loraf {
    memory: LorafState,
    masks: BTreeMap<PartId, Vec<bool>>,
    cost: Cost,
}

/// The small part of the memory of [`Loraf`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LorafState {
    config: LorafConfig,
    planned_steps: usize,
    last_step: usize,
    units: BTreeSet<UnitId>,
    masked: Vec<PartId>,
}

impl Loraf {
    /// The policy for a run of `planned_steps` optimizer steps over these adapter pairs.
    ///
    /// # Errors
    /// If an option is out of range, or there are no units or steps.
    pub fn new(config: LorafConfig, units: &[UnitId], planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        check_run(units, planned_steps)?;
        let units = units.iter().copied().collect();
        let memory = LorafState { config, planned_steps, last_step: 0, units, masked: Vec::new() };
        Ok(Self { memory, masks: BTreeMap::new(), cost: Cost::default() })
    }

    fn masks(&self) -> Vec<Mask> {
        self.masks.iter().map(|(tensor, keep)| Mask { tensor: *tensor, keep: keep.clone() }).collect()
    }
}

impl Policy for Loraf {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let due = step >= share_of_steps(self.memory.config.dense_share, self.memory.planned_steps).max(1);
        Wants { weights: due && self.masks.is_empty(), ..Wants::default() }
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if step <= self.memory.last_step || !self.wants(step).weights {
            return decision;
        }
        self.memory.last_step = step;
        let tensors: BTreeMap<PartId, &[f32]> = observation
            .weights
            .iter()
            .filter(|weight| weight.tensor.part == 1 && self.memory.units.contains(&weight.tensor.unit))
            .map(|weight| (weight.tensor, weight.values))
            .collect();
        let mut order: Vec<(f32, PartId, usize)> = Vec::new();
        let mut all = 0;
        for (tensor, values) in &tensors {
            all += values.len();
            order.extend(
                values.iter().enumerate().filter(|(_, v)| v.is_finite()).map(|(i, value)| (value.abs(), *tensor, i)),
            );
        }
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        order.truncate(share_of_steps(1.0 - self.memory.config.sparsity, all));
        self.masks = tensors.iter().map(|(tensor, values)| (*tensor, vec![false; values.len()])).collect();
        for (_, tensor, index) in order {
            if let Some(keep) = self.masks.get_mut(&tensor) {
                keep[index] = true;
            }
        }
        // Magnitudes, and about log₂ n comparisons of each to sort them.
        self.cost.operations += all as u64 * (1 + u64::from(all.max(1).ilog2()));
        self.memory.masked = self.masks.keys().copied().collect();
        decision.masks = self.masks();
        decision
    }

    fn in_force(&self) -> Decision {
        Decision {
            step: self.memory.last_step,
            freeze_parts: self.memory.units.iter().map(|unit| PartId { unit: *unit, part: 0 }).collect(),
            masks: self.masks(),
            ..Decision::default()
        }
    }

    fn cost(&self) -> Cost {
        Cost { bytes: self.masks.values().map(|keep| keep.len() as u64).sum(), ..self.cost }
    }

    fn state(&self) -> PolicyState {
        let values = |keep: &Vec<bool>| keep.iter().map(|keep| f32::from(u8::from(*keep))).collect();
        PolicyState {
            memory: PolicyMemory::new(NAME, &self.memory),
            cost: self.cost(),
            buffers: self.masks.iter().map(|(tensor, keep)| (format!("mask.{tensor}"), values(keep))).collect(),
        }
    }

    fn restore(&mut self, mut state: PolicyState) -> Result<(), RestoreError> {
        let saved: LorafState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.memory.config, self.memory.planned_steps))?;
        check_units(&saved.units, &self.memory.units)?;
        let mut masks = BTreeMap::new();
        for tensor in &saved.masked {
            let values = take_buffer(&mut state.buffers, format!("mask.{tensor}"), None)?;
            masks.insert(*tensor, values.into_iter().map(|value| value != 0.0).collect());
        }
        (self.memory, self.masks, self.cost) = (saved, masks, state.cost);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::contract::Elements;
    use crate::unit::Role;

    fn part(layer: usize, part: usize) -> PartId {
        PartId { unit: UnitId::language(layer, Role::Q), part }
    }

    fn policy() -> Loraf {
        let config = LorafConfig { sparsity: 0.6, dense_share: 0.5 };
        Loraf::new(config, &[part(0, 0).unit, part(1, 0).unit], 10).unwrap()
    }

    fn observe(policy: &mut Loraf, step: usize) -> Decision {
        // The two largest magnitudes of five are kept: −9 and the first of the two 3s. A (part 0) does not count.
        let weights = [
            Elements { tensor: part(0, 0), values: &[99.0, 99.0] },
            Elements { tensor: part(0, 1), values: &[1.0, 3.0] },
            Elements { tensor: part(1, 1), values: &[-9.0, 3.0, f32::NAN] },
        ];
        policy.observe(step, &Observation { weights: &weights, ..Observation::default() })
    }

    #[test]
    fn a_is_frozen_from_the_start_and_b_masked_once() {
        let mut policy = policy();
        assert_eq!(policy.in_force().freeze_parts, [part(0, 0), part(1, 0)]);
        let wanting: Vec<_> = (0..=10).filter(|step| policy.wants(*step).weights).collect();
        assert_eq!(wanting, [5, 6, 7, 8, 9, 10]);
        assert!(policy.wants(5).after_update());
        assert_eq!(observe(&mut policy, 4), Decision { step: 4, ..Decision::default() });
        let masks = observe(&mut policy, 5).masks;
        let expected = [
            Mask { tensor: part(0, 1), keep: vec![false, true] },
            Mask { tensor: part(1, 1), keep: vec![true, false, false] },
        ];
        assert_eq!(masks, expected);
        assert_eq!(policy.in_force().masks, expected);
        assert_eq!(policy.wants(6), Wants::default());
        assert_eq!(observe(&mut policy, 6).masks, []);
        // Five elements: a magnitude and ⌊log₂ 5⌋ comparisons each.
        assert_eq!(policy.cost(), Cost { operations: 15, bytes: 5, ..Cost::default() });
    }

    #[test]
    fn a_mask_that_could_not_be_made_is_made_later() {
        let mut policy = policy();
        assert_eq!(policy.observe(5, &Observation::default()).masks, []);
        assert_eq!(observe(&mut policy, 6).masks.len(), 2);
    }

    #[test]
    fn a_restored_run_keeps_its_masks() {
        for observed in [false, true] {
            let mut first = policy();
            if observed {
                observe(&mut first, 5);
            }
            let json = serde_json::to_string(&first.state()).unwrap();
            let mut second = policy();
            second.restore(serde_json::from_str(&json).unwrap()).unwrap();
            assert_eq!(second.in_force(), first.in_force());
            assert_eq!(observe(&mut second, 6), observe(&mut first, 6));
        }
    }
}
