//! AutoFreeze (Liu et al. 2021, arXiv 2102.01386): whole layers freeze from the front, as their gradients settle.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::contract::{
    Cost, Elements, Method, Observation, Policy, PolicyMemory, PolicyState, check_run_of, take_buffer,
};
use crate::check::{ConfigError, check_run, require};
use crate::companion::{Companion, Companions};
use crate::decision::{Decision, PartId, Wants};
use crate::event::StopReason;
use crate::exact;
use crate::state::{RestoreError, check_units};
use crate::unit::{Tower, UnitId};

const NAME: &str = "autofreeze";

/// The options of `method: autofreeze`. The defaults are those of its paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AutoFreezeConfig {
    /// Into how many intervals the planned steps are divided; layers are compared at the end of each. Default: 10.
    pub num_intervals: usize,
    /// A layer goes on training where its change is at or above this percentile of the active layers', in [0, 100].
    /// Default: 50.
    pub percentile: f64,
}

impl Default for AutoFreezeConfig {
    fn default() -> Self {
        Self { num_intervals: 10, percentile: 50.0 }
    }
}

impl Method for AutoFreezeConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self) -> Result<(), ConfigError> {
        require(self.num_intervals >= 1, "num_intervals", self.num_intervals as f64, "at least 1")?;
        require((0.0..=100.0).contains(&self.percentile), "percentile", self.percentile, "a number from 0 to 100")
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(AutoFreeze::new(self.clone(), units, planned_steps)?))
    }
}

type Layer = (Tower, usize);

/// Freezes a growing prefix of layers.
///
/// The signed gradients of each tensor are summed over an interval of M = ⌊T / `num_intervals`⌋ steps. With
/// G = Σ ‖Σ_t g_t‖₁ over the matrices of a layer, its change is η = |G_prev − G| / G_prev; the first interval is the
/// baseline. The frozen prefix grows up to the first layer whose η is at or above the percentile of η over the active
/// layers, or whose gradients were not all seen or not finite. Norms and embeddings follow; the few values of the norms
/// do not enter G.
#[derive(Debug, Clone)]
pub struct AutoFreeze {
    memory: AutoFreezeState,
    sums: BTreeMap<PartId, Vec<f32>>,
    cost: Cost,
}

/// The small part of the memory of [`AutoFreeze`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AutoFreezeState {
    config: AutoFreezeConfig,
    planned_steps: usize,
    last_step: usize,
    units: BTreeSet<UnitId>,
    /// How many layers, from the front, are frozen.
    prefix: usize,
    /// In how many steps of the present interval each tensor's gradient was seen.
    seen: Vec<(PartId, usize)>,
    /// G of the interval before, by layer.
    baseline: Vec<LayerGradient>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LayerGradient {
    tower: Tower,
    layer: usize,
    #[serde(with = "exact")]
    norm: f64,
}

impl AutoFreeze {
    /// The policy for a run of `planned_steps` optimizer steps over these units.
    ///
    /// # Errors
    /// If an option is out of range, or there are no units or steps.
    pub fn new(config: AutoFreezeConfig, units: &[UnitId], planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        check_run(units, planned_steps)?;
        Ok(Self {
            memory: AutoFreezeState {
                config,
                planned_steps,
                last_step: 0,
                units: units.iter().copied().collect(),
                prefix: 0,
                seen: Vec::new(),
                baseline: Vec::new(),
            },
            sums: BTreeMap::new(),
            cost: Cost::default(),
        })
    }

    /// Steps in an interval.
    fn interval(&self) -> usize {
        (self.memory.planned_steps / self.memory.config.num_intervals).max(1)
    }

    fn layers(&self) -> Vec<Layer> {
        let layers: BTreeSet<Layer> = self.memory.units.iter().map(|unit| (unit.tower, unit.layer)).collect();
        layers.into_iter().collect()
    }

    fn frozen_units(&self) -> BTreeSet<UnitId> {
        let prefix = &self.layers()[..self.memory.prefix];
        self.memory.units.iter().filter(|unit| prefix.contains(&(unit.tower, unit.layer))).copied().collect()
    }

    fn frozen_companions(&self) -> BTreeSet<Companion> {
        Companions::Follow.frozen_with(&self.memory.units, &self.frozen_units())
    }

    fn add(&mut self, gradient: &Elements<'_>) {
        let sum = self.sums.entry(gradient.tensor).or_insert_with(|| vec![0.0; gradient.values.len()]);
        if sum.len() != gradient.values.len() {
            return;
        }
        for (sum, value) in sum.iter_mut().zip(gradient.values) {
            *sum += value;
        }
        self.cost.operations += gradient.values.len() as u64;
        match self.memory.seen.iter_mut().find(|(tensor, _)| *tensor == gradient.tensor) {
            Some((_, seen)) => *seen += 1,
            None => self.memory.seen.push((gradient.tensor, 1)),
        }
    }

    /// G of a layer over the interval that ends; NaN where a gradient was missing.
    fn gradient_of(&mut self, layer: Layer) -> f64 {
        let interval = self.interval();
        let mut total = 0.0;
        for unit in self.memory.units.iter().filter(|unit| (unit.tower, unit.layer) == layer) {
            let parts: Vec<_> = self.memory.seen.iter().filter(|(tensor, _)| tensor.unit == *unit).collect();
            if parts.is_empty() || parts.iter().any(|(_, seen)| *seen != interval) {
                return f64::NAN;
            }
            for sum in parts.iter().filter_map(|(tensor, _)| self.sums.get(tensor)) {
                total += sum.iter().map(|value| f64::from(value.abs())).sum::<f64>();
                self.cost.operations += 2 * sum.len() as u64;
            }
        }
        total
    }

    /// The new length of the frozen prefix.
    fn extend(&self, now: &[LayerGradient]) -> usize {
        let before: BTreeMap<Layer, f64> = self.memory.baseline.iter().map(|g| ((g.tower, g.layer), g.norm)).collect();
        let change = |g: &LayerGradient| {
            let before = before.get(&(g.tower, g.layer)).copied().unwrap_or(f64::NAN);
            (before - g.norm).abs() / before
        };
        let changes: Vec<f64> = now.iter().map(change).collect();
        let bar = percentile(changes.iter().copied().filter(|eta| eta.is_finite()), self.memory.config.percentile);
        // A comparison with NaN is false: a layer whose change is unknown ends the prefix.
        self.memory.prefix + changes.iter().take_while(|eta| bar.is_some_and(|bar| **eta < bar)).count()
    }
}

/// The percentile of values, interpolated linearly between the two nearest.
fn percentile(values: impl Iterator<Item = f64>, percent: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let position = percent / 100.0 * sorted.len().checked_sub(1)? as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    Some(sorted[below] + (position - below as f64) * (sorted[above] - sorted[below]))
}

impl Policy for AutoFreeze {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        // The last whole interval ends the decisions.
        let end = self.interval() * (self.memory.planned_steps / self.interval());
        Wants { gradients: (1..=end).contains(&step), ..Wants::default() }
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if step <= self.memory.last_step || !self.wants(step).gradients {
            return decision;
        }
        self.memory.last_step = step;
        let (frozen, companions) = (self.frozen_units(), self.frozen_companions());
        for gradient in observation.gradients {
            let unit = gradient.tensor.unit;
            if self.memory.units.contains(&unit) && !frozen.contains(&unit) {
                self.add(gradient);
            }
        }
        if !step.is_multiple_of(self.interval()) {
            return decision;
        }
        let active = self.layers().split_off(self.memory.prefix);
        let now: Vec<LayerGradient> = active
            .into_iter()
            .map(|(tower, layer)| LayerGradient { tower, layer, norm: self.gradient_of((tower, layer)) })
            .collect();
        if !self.memory.baseline.is_empty() {
            self.memory.prefix = self.extend(&now);
        }
        self.memory.baseline = now;
        self.memory.seen.clear();
        self.sums.clear();

        let now_frozen = self.frozen_units();
        decision.freeze = now_frozen.difference(&frozen).copied().collect();
        decision.freeze_companions = self.frozen_companions().difference(&companions).copied().collect();
        decision.stop = (now_frozen.len() == self.memory.units.len()).then_some(StopReason::AllFrozen);
        decision
    }

    fn in_force(&self) -> Decision {
        Decision {
            step: self.memory.last_step,
            freeze: self.frozen_units().into_iter().collect(),
            freeze_companions: self.frozen_companions().into_iter().collect(),
            ..Decision::default()
        }
    }

    fn cost(&self) -> Cost {
        Cost { bytes: self.sums.values().map(|sum| 4 * sum.len() as u64).sum(), ..self.cost }
    }

    fn state(&self) -> PolicyState {
        PolicyState {
            memory: PolicyMemory::new(NAME, &self.memory),
            cost: self.cost(),
            buffers: self.sums.iter().map(|(tensor, sum)| (format!("sum.{tensor}"), sum.clone())).collect(),
        }
    }

    fn restore(&mut self, mut state: PolicyState) -> Result<(), RestoreError> {
        let saved: AutoFreezeState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.memory.config, self.memory.planned_steps))?;
        check_units(&saved.units, &self.memory.units)?;
        let mut sums = BTreeMap::new();
        for (tensor, _) in &saved.seen {
            sums.insert(*tensor, take_buffer(&mut state.buffers, format!("sum.{tensor}"), None)?);
        }
        (self.memory, self.sums, self.cost) = (saved, sums, state.cost);
        // A damaged file must not reach beyond the layers there are.
        self.memory.prefix = self.memory.prefix.min(self.layers().len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Role;

    fn unit(layer: usize) -> UnitId {
        UnitId::language(layer, Role::Q)
    }

    fn policy(percentile: f64) -> AutoFreeze {
        let units: Vec<_> = (0..4).map(unit).collect();
        AutoFreeze::new(AutoFreezeConfig { num_intervals: 3, percentile }, &units, 6).unwrap()
    }

    /// Gradients of four layers of two elements each.
    fn observe(policy: &mut AutoFreeze, step: usize, layers: &[(usize, [f32; 2])]) -> Decision {
        let gradients: Vec<_> = layers
            .iter()
            .map(|(layer, values)| Elements { tensor: PartId { unit: unit(*layer), part: 0 }, values })
            .collect();
        policy.observe(step, &Observation { gradients: &gradients, ..Observation::default() })
    }

    /// Interval 1: G = 2, 4, 4, 10 (signs cancel in layer 0). Interval 2: G = 2.2, 4.8, 8, 11, so η = 0.1, 0.2, 1, 0.1.
    /// Interval 3: G = 8.8 and 22 of the layers left, η = 0.1 and 1.
    const TRACE: [[(usize, [f32; 2]); 4]; 6] = [
        [(0, [5.0, 1.0]), (1, [1.0, 1.0]), (2, [1.0, -1.0]), (3, [2.0, 3.0])],
        [(0, [-5.0, 1.0]), (1, [1.0, 1.0]), (2, [1.0, -1.0]), (3, [2.0, 3.0])],
        [(0, [0.1, 1.0]), (1, [1.2, 1.2]), (2, [2.0, -2.0]), (3, [2.5, 3.0])],
        [(0, [0.1, 1.0]), (1, [1.2, 1.2]), (2, [2.0, -2.0]), (3, [2.5, 3.0])],
        [(0, [9.0, 9.0]), (1, [9.0, 9.0]), (2, [2.2, -2.2]), (3, [5.0, 6.0])],
        [(0, [9.0, 9.0]), (1, [9.0, 9.0]), (2, [2.2, -2.2]), (3, [5.0, 6.0])],
    ];

    #[test]
    fn the_prefix_grows_to_the_first_layer_that_still_changes() {
        // The median of 0.1, 0.2, 1, 0.1 is 0.15: layer 0 freezes, layer 1 does not. Percentile 80 is 0.2 + 0.4 · 0.8 =
        // 0.52: layers 0 and 1. In interval 3 percentile 80 of 0.1 and 1 is 0.82: layer 2.
        let mut median = policy(50.0);
        let mut high = policy(80.0);
        for (i, gradients) in TRACE.iter().enumerate() {
            let step = i + 1;
            assert!(median.wants(step).gradients);
            let expected = if step == 4 { vec![unit(0)] } else { vec![] };
            let decision = observe(&mut median, step, gradients);
            if step < 6 {
                assert_eq!(decision.freeze, expected, "{step}");
            }
            let decision = observe(&mut high, step, gradients);
            let expected = match step {
                4 => vec![unit(0), unit(1)],
                6 => vec![unit(2)],
                _ => vec![],
            };
            assert_eq!((decision.freeze, decision.stop), (expected, None), "{step}");
            if step == 4 {
                let norms = |layer| Companion::Norms { tower: Tower::Language, layer };
                let embedding = Companion::Embedding { tower: Tower::Language };
                assert_eq!(decision.freeze_companions, [norms(0), norms(1), embedding]);
            }
        }
        assert_eq!(high.frozen(), [unit(0), unit(1), unit(2)]);
        // Added: 4 layers for 4 steps, 2 for 2, two elements each; |·| and + at the end of each interval: 4, 4, 2 layers.
        assert_eq!(high.cost().operations, 2 * (4 * 4 + 2 * 2) + 2 * 2 * (4 + 4 + 2));
        assert!(!high.wants(7).gradients && !high.wants(0).gradients);
    }

    #[test]
    fn a_layer_with_a_missing_or_broken_gradient_ends_the_prefix() {
        for broken in [None, Some([f32::NAN, 1.0]), Some([f32::INFINITY, 1.0])] {
            let mut policy = policy(80.0);
            for (i, gradients) in TRACE[..4].iter().enumerate() {
                let mut gradients = gradients.to_vec();
                if i == 2 {
                    gradients.remove(0);
                    gradients.extend(broken.map(|values| (0, values)));
                }
                assert_eq!(observe(&mut policy, i + 1, &gradients).freeze, []);
            }
        }
    }

    #[test]
    fn a_restored_run_goes_on_as_the_uninterrupted_one() {
        let mut whole = policy(80.0);
        let expected: Vec<_> = TRACE.iter().enumerate().map(|(i, g)| observe(&mut whole, i + 1, g)).collect();
        for cut in 0..TRACE.len() {
            let mut first = policy(80.0);
            for (i, gradients) in TRACE[..cut].iter().enumerate() {
                observe(&mut first, i + 1, gradients);
            }
            let json = serde_json::to_string(&first.state()).unwrap();
            let mut second = policy(80.0);
            second.restore(serde_json::from_str(&json).unwrap()).unwrap();
            assert_eq!(second.in_force(), first.in_force());
            for (i, gradients) in TRACE.iter().enumerate().skip(cut) {
                assert_eq!(observe(&mut second, i + 1, gradients), expected[i]);
            }
            assert_eq!(second.cost(), whole.cost());
        }
        assert!(matches!(policy(50.0).restore(whole.state()), Err(RestoreError::Config { .. })));
    }

    #[test]
    fn percentiles_interpolate() {
        let of = |values: &[f64], percent| percentile(values.iter().copied(), percent);
        assert_eq!(of(&[3.0, 1.0, 2.0, 4.0], 50.0), Some(2.5));
        assert_eq!(of(&[3.0, 1.0, 2.0], 0.0), Some(1.0));
        assert_eq!(of(&[3.0, 1.0, 2.0], 100.0), Some(3.0));
        assert_eq!(of(&[], 50.0), None);
    }
}
