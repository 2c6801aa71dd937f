//! AFLoRA (Liu et al. 2024, arXiv 2403.13269): adapter tensors freeze one by one along a cubic schedule, those whose
//! gradients matter least first.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::contract::{
    Cost, Elements, Method, Observation, Policy, PolicyMemory, PolicyState, check_run_of, take_buffer,
};
use crate::check::{ConfigError, check_run, require};
use crate::decision::{Decision, PartId, Wants};
use crate::event::StopReason;
use crate::state::{RestoreError, check_units};
use crate::unit::UnitId;

const NAME: &str = "aflora";

/// The options of `method: aflora`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AfLoraConfig {
    /// Tensors are scored, and may freeze, at every so many steps. Default: 10.
    pub window: usize,
    /// Weight of the past in the average of the importance, in [0, 1). Default: 0.85.
    pub beta_importance: f64,
    /// Weight of the past in the average of the uncertainty, in [0, 1). Default: 0.95.
    pub beta_uncertainty: f64,
    /// Share of the planned steps before the schedule begins (t_i / T). Its paper chooses it by task. Default: 0.1.
    pub initial_share: f64,
    /// Share of the planned steps after the schedule has ended (t_f / T). Its paper chooses it by task. Default: 0.1.
    pub final_share: f64,
}

impl Default for AfLoraConfig {
    fn default() -> Self {
        Self { window: 10, beta_importance: 0.85, beta_uncertainty: 0.95, initial_share: 0.1, final_share: 0.1 }
    }
}

impl Method for AfLoraConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs_lora(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        require(self.window >= 1, "window", self.window as f64, "at least 1")?;
        for (key, beta) in [("beta_importance", self.beta_importance), ("beta_uncertainty", self.beta_uncertainty)] {
            require((0.0..1.0).contains(&beta), key, beta, "a number from 0 up to, but not including, 1")?;
        }
        require(
            (0.0..=1.0).contains(&self.initial_share),
            "initial_share",
            self.initial_share,
            "a number from 0 to 1",
        )?;
        let rest = 1.0 - self.initial_share;
        require(
            (0.0..=rest).contains(&self.final_share),
            "final_share",
            self.final_share,
            "a number from 0 to what `initial_share` leaves of 1",
        )
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        Ok(Box::new(AfLora::new(self.clone(), units, planned_steps)?))
    }
}

/// Freezes adapter tensors by score.
///
/// At the end of each window, with I = mean |g| over its steps, element by element: Ī ← β₁Ī + (1 − β₁)I,
/// Ū ← β₂Ū + (1 − β₂)|I − Ī|, score = mean(Ī ⊙ Ū). With the trainable share r of the schedule, a tensor freezes when its
/// score is below the k-th smallest element of Ī ⊙ Ū over all n elements of the tensors that still train,
/// k = ⌊n(1 − r)⌋. A tensor whose gradient was missing or not finite in the window is left out of it.
#[derive(Debug, Clone)]
pub struct AfLora {
    memory: AfLoraState,
    tensors: BTreeMap<PartId, Tracked>,
    cost: Cost,
}

/// The small part of the memory of [`AfLora`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AfLoraState {
    config: AfLoraConfig,
    planned_steps: usize,
    last_step: usize,
    units: BTreeSet<UnitId>,
    /// In how many steps of the present window the gradient of each tensor that still trains was seen.
    seen: Vec<(PartId, usize)>,
    frozen: BTreeSet<PartId>,
}

#[derive(Debug, Clone)]
struct Tracked {
    /// Σ|g| over the present window.
    sum: Vec<f32>,
    importance: Vec<f32>,
    uncertainty: Vec<f32>,
    /// Steps of the present window.
    seen: usize,
}

impl Tracked {
    fn new(len: usize) -> Self {
        Self { sum: vec![0.0; len], importance: vec![0.0; len], uncertainty: vec![0.0; len], seen: 0 }
    }

    /// Ends a window: updates both averages.
    fn update(&mut self, config: &AfLoraConfig) {
        let (b1, b2) = (config.beta_importance as f32, config.beta_uncertainty as f32);
        for ((sum, importance), uncertainty) in self.sum.iter().zip(&mut self.importance).zip(&mut self.uncertainty) {
            let now = sum / config.window as f32;
            *importance = b1 * *importance + (1.0 - b1) * now;
            *uncertainty = b2 * *uncertainty + (1.0 - b2) * (now - *importance).abs();
        }
    }

    fn scores(&self) -> impl Iterator<Item = f32> + '_ {
        self.importance.iter().zip(&self.uncertainty).map(|(i, u)| i * u)
    }

    fn score(&self) -> f64 {
        self.scores().map(f64::from).sum::<f64>() / self.sum.len() as f64
    }
}

impl AfLora {
    /// The policy for a run of `planned_steps` optimizer steps over these adapter pairs.
    ///
    /// # Errors
    /// If an option is out of range, or there are no units or steps.
    pub fn new(config: AfLoraConfig, units: &[UnitId], planned_steps: usize) -> Result<Self, ConfigError> {
        config.validate()?;
        check_run(units, planned_steps)?;
        let memory = AfLoraState {
            config,
            planned_steps,
            last_step: 0,
            units: units.iter().copied().collect(),
            seen: Vec::new(),
            frozen: BTreeSet::new(),
        };
        Ok(Self { memory, tensors: BTreeMap::new(), cost: Cost::default() })
    }

    /// The share of the elements that the schedule lets train at a step: r(t).
    pub fn trainable_share(&self, step: usize) -> f64 {
        let total = self.memory.planned_steps as f64;
        let (begin, end) = (self.memory.config.initial_share * total, (1.0 - self.memory.config.final_share) * total);
        let t = step as f64;
        if t <= begin {
            1.0
        } else if t >= end {
            0.0
        } else {
            (1.0 - (t - begin) / (end - begin)).powi(3)
        }
    }

    fn add(&mut self, gradient: &Elements<'_>) {
        let tracked = self.tensors.entry(gradient.tensor).or_insert_with(|| Tracked::new(gradient.values.len()));
        if tracked.sum.len() != gradient.values.len() {
            return;
        }
        for (sum, value) in tracked.sum.iter_mut().zip(gradient.values) {
            *sum += value.abs();
        }
        tracked.seen += 1;
        self.cost.operations += 2 * gradient.values.len() as u64;
    }

    /// Ends the window: the tensors that freeze.
    fn end_window(&mut self, step: usize) -> Vec<PartId> {
        let config = &self.memory.config;
        let mut pool = Vec::new();
        let mut scores = Vec::new();
        for (tensor, tracked) in &mut self.tensors {
            let complete = tracked.seen == config.window && tracked.sum.iter().all(|value| value.is_finite());
            if complete && !tracked.sum.is_empty() {
                tracked.update(config);
                pool.extend(tracked.scores());
                scores.push((*tensor, tracked.score()));
                // Two averages of 3 and 4 operations, product and sum, and a division.
                self.cost.operations += 10 * tracked.sum.len() as u64;
            }
            tracked.sum.fill(0.0);
            tracked.seen = 0;
        }
        let k = (pool.len() as f64 * (1.0 - self.trainable_share(step))).floor() as usize;
        if k == 0 {
            return Vec::new();
        }
        // Selection takes about two comparisons an element.
        self.cost.operations += 2 * pool.len() as u64;
        let k = k.min(pool.len());
        let bar = f64::from(*pool.select_nth_unstable_by(k - 1, f32::total_cmp).1);
        scores.into_iter().filter(|(_, score)| *score < bar).map(|(tensor, _)| tensor).collect()
    }

    /// Units that were seen and of which no tensor trains any more.
    fn frozen_units(&self) -> BTreeSet<UnitId> {
        let training: BTreeSet<UnitId> = self.tensors.keys().map(|tensor| tensor.unit).collect();
        self.memory.frozen.iter().map(|tensor| tensor.unit).filter(|unit| !training.contains(unit)).collect()
    }
}

impl Policy for AfLora {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let window = self.memory.config.window;
        let end = window * (self.memory.planned_steps / window);
        let all_frozen = self.frozen_units().len() == self.memory.units.len();
        Wants { gradients: (1..=end).contains(&step) && !all_frozen, ..Wants::default() }
    }

    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if step <= self.memory.last_step || !self.wants(step).gradients {
            return decision;
        }
        self.memory.last_step = step;
        for gradient in observation.gradients {
            if self.memory.units.contains(&gradient.tensor.unit) && !self.memory.frozen.contains(&gradient.tensor) {
                self.add(gradient);
            }
        }
        if !step.is_multiple_of(self.memory.config.window) {
            return decision;
        }
        let before = self.frozen_units();
        let freezing = self.end_window(step);
        for tensor in &freezing {
            self.tensors.remove(tensor);
            self.memory.frozen.insert(*tensor);
        }
        let now = self.frozen_units();
        decision.freeze = now.difference(&before).copied().collect();
        decision.freeze_parts = freezing.into_iter().filter(|tensor| !now.contains(&tensor.unit)).collect();
        decision.stop = (now.len() == self.memory.units.len()).then_some(StopReason::AllFrozen);
        decision
    }

    fn in_force(&self) -> Decision {
        let whole = self.frozen_units();
        Decision {
            step: self.memory.last_step,
            freeze_parts: self.memory.frozen.iter().filter(|tensor| !whole.contains(&tensor.unit)).copied().collect(),
            freeze: whole.into_iter().collect(),
            ..Decision::default()
        }
    }

    fn cost(&self) -> Cost {
        Cost { bytes: self.tensors.values().map(|t| 12 * t.sum.len() as u64).sum(), ..self.cost }
    }

    fn state(&self) -> PolicyState {
        let mut buffers = BTreeMap::new();
        for (tensor, tracked) in &self.tensors {
            for (name, values) in
                [("sum", &tracked.sum), ("importance", &tracked.importance), ("uncertainty", &tracked.uncertainty)]
            {
                buffers.insert(format!("{name}.{tensor}"), values.clone());
            }
        }
        let mut memory = self.memory.clone();
        memory.seen = self.tensors.iter().map(|(tensor, tracked)| (*tensor, tracked.seen)).collect();
        PolicyState { memory: PolicyMemory::new(NAME, &memory), cost: self.cost(), buffers }
    }

    fn restore(&mut self, mut state: PolicyState) -> Result<(), RestoreError> {
        let saved: AfLoraState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.memory.config, self.memory.planned_steps))?;
        check_units(&saved.units, &self.memory.units)?;
        let mut tensors = BTreeMap::new();
        for (tensor, seen) in &saved.seen {
            let sum = take_buffer(&mut state.buffers, format!("sum.{tensor}"), None)?;
            let len = Some(sum.len());
            let importance = take_buffer(&mut state.buffers, format!("importance.{tensor}"), len)?;
            let uncertainty = take_buffer(&mut state.buffers, format!("uncertainty.{tensor}"), len)?;
            tensors.insert(*tensor, Tracked { sum, importance, uncertainty, seen: *seen });
        }
        (self.memory, self.tensors, self.cost) = (saved, tensors, state.cost);
        self.memory.seen.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Role;

    const UNIT: UnitId = UnitId { tower: crate::unit::Tower::Language, layer: 0, role: Role::Q };
    const A: PartId = PartId { unit: UNIT, part: 0 };
    const B: PartId = PartId { unit: UNIT, part: 1 };

    fn policy() -> AfLora {
        let config = AfLoraConfig {
            window: 2,
            beta_importance: 0.5,
            beta_uncertainty: 0.5,
            initial_share: 0.25,
            final_share: 0.25,
        };
        AfLora::new(config, &[UNIT], 8).unwrap()
    }

    fn observe(policy: &mut AfLora, step: usize, tensors: &[(PartId, [f32; 2])]) -> Decision {
        let gradients: Vec<_> = tensors.iter().map(|(tensor, values)| Elements { tensor: *tensor, values }).collect();
        policy.observe(step, &Observation { gradients: &gradients, ..Observation::default() })
    }

    /// Window 1: I_A = (2, 4), I_B = (8, 16). From zero, Ī = I/2, Ū = I/4, Ī ⊙ Ū = I²/8: A 0.5, 2; B 8, 32.
    /// r(2) = 1: nothing can freeze. Window 2 with the same I: Ī = 3I/4, Ū = I/8 + I/8 = I/4, Ī ⊙ Ū = 3I²/16: A 0.75, 3,
    /// mean 1.875; B 12, 48. r(4) = (1 − 2/4)³ = 1/8, k = ⌊4 · 7/8⌋ = 3: the bar is 12, A freezes; B's mean is 30.
    /// Window 3: only B trains, Ī = 7I/8, Ū = I/8 + I/16 = 3I/16, elements 21I²/128: 10.5, 42, mean 26.25. r(6) = 0, k = 2:
    /// the bar is 42, B freezes, and training stops.
    const TRACE: [[(PartId, [f32; 2]); 2]; 6] = [
        [(A, [1.0, -4.0]), (B, [8.0, 16.0])],
        [(A, [-3.0, 4.0]), (B, [8.0, -16.0])],
        [(A, [2.0, 4.0]), (B, [-8.0, 16.0])],
        [(A, [2.0, 4.0]), (B, [8.0, 16.0])],
        [(A, [2.0, 4.0]), (B, [8.0, 16.0])],
        [(A, [2.0, 4.0]), (B, [8.0, 16.0])],
    ];

    #[test]
    fn tensors_freeze_as_by_hand() {
        let mut policy = policy();
        for (i, gradients) in TRACE.iter().enumerate() {
            let step = i + 1;
            assert!(policy.wants(step).gradients);
            let decision = observe(&mut policy, step, gradients);
            let expected = match step {
                4 => (vec![A], vec![], None),
                6 => (vec![], vec![UNIT], Some(StopReason::AllFrozen)),
                _ => (vec![], vec![], None),
            };
            assert_eq!((decision.freeze_parts, decision.freeze, decision.stop), expected, "{step}");
            if step == 2 {
                let scores: Vec<f32> = policy.tensors.values().flat_map(Tracked::scores).collect();
                assert_eq!(scores, [0.5, 2.0, 8.0, 32.0]);
            }
        }
        assert_eq!(policy.frozen(), [UNIT]);
        assert!(!policy.wants(7).gradients);
        // |·| and +: 4 elements for 4 steps, 2 for 2. Windows of 4, 4, 2 elements at 10; selections of 4 and 2 at 2.
        assert_eq!(policy.cost(), Cost { operations: 2 * (16 + 4) + 10 * 10 + 2 * 6, ..Cost::default() });
    }

    #[test]
    fn the_schedule_is_cubic_between_its_ends() {
        let policy = policy();
        let shares = [0, 2, 3, 4, 5, 6, 8].map(|step| policy.trainable_share(step));
        assert_eq!(shares, [1.0, 1.0, 0.421875, 0.125, 0.015625, 0.0, 0.0]);
    }

    #[test]
    fn missing_and_broken_gradients_freeze_nothing() {
        for broken in [None, Some([f32::NAN, 1.0]), Some([f32::INFINITY, 1.0])] {
            let mut policy = policy();
            for (i, gradients) in TRACE[..4].iter().enumerate() {
                let mut gradients = gradients.to_vec();
                if i == 2 {
                    gradients.remove(0);
                    gradients.extend(broken.map(|values| (A, values)));
                }
                // B alone: elements 12 and 48, k = ⌊2 · 7/8⌋ = 1, the bar 12 is below its mean.
                let decision = observe(&mut policy, i + 1, &gradients);
                assert_eq!((decision.freeze_parts, decision.freeze), (vec![], vec![]));
            }
        }
    }

    #[test]
    fn a_restored_run_goes_on_as_the_uninterrupted_one() {
        let mut whole = policy();
        let expected: Vec<_> = TRACE.iter().enumerate().map(|(i, g)| observe(&mut whole, i + 1, g)).collect();
        for cut in 0..TRACE.len() {
            let mut first = policy();
            for (i, gradients) in TRACE[..cut].iter().enumerate() {
                observe(&mut first, i + 1, gradients);
            }
            let json = serde_json::to_string(&first.state()).unwrap();
            let mut second = policy();
            second.restore(serde_json::from_str(&json).unwrap()).unwrap();
            assert_eq!(second.in_force(), first.in_force());
            for (i, gradients) in TRACE.iter().enumerate().skip(cut) {
                assert_eq!(observe(&mut second, i + 1, gradients), expected[i]);
            }
        }
        let mut incomplete = policy();
        observe(&mut incomplete, 1, &TRACE[0]);
        let mut state = incomplete.state();
        state.buffers.remove("importance.language.0.q#1");
        assert!(matches!(policy().restore(state), Err(RestoreError::Buffer { .. })));
    }
}
