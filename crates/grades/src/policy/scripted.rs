//! Freezing by a script: which matrices freeze at which step is written down beforehand.
//!
//! It plays what another method has decided, or a control of it: as many matrices at the same steps, chosen otherwise.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::contract::{Method, Observation, Policy, PolicyState};
use super::step_memory::StepMemory;
use crate::check::{ConfigError, check_run, require};
use crate::companion::{Companion, Companions};
use crate::decision::{Decision, Wants};
use crate::event::StopReason;
use crate::state::RestoreError;
use crate::unit::UnitId;

const NAME: &str = "scripted";

/// The options of `method: scripted`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ScriptedConfig {
    /// Which matrices freeze when: `[{step: 120, units: [language.0.q, language.3.up]}]`. One that freezes at a step skips the
    /// update of that step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Freeze>,
    /// The last step of the run. Left out: the step at which the last matrix freezes, if all are named, else the planned end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<usize>,
    /// Whether norms and embeddings freeze with the matrices around them. Default: `train`.
    pub companions: Companions,
}

/// Matrices that freeze at one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// The step, from 1.
    pub step: usize,
    /// The matrices.
    pub units: Vec<UnitId>,
}

impl ScriptedConfig {
    /// Every matrix that is named.
    fn named(&self) -> impl Iterator<Item = &UnitId> {
        self.freeze.iter().flat_map(|freeze| &freeze.units)
    }
}

impl Method for ScriptedConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let first = self.freeze.iter().map(|freeze| freeze.step).min().unwrap_or(1);
        require(first >= 1, "freeze.step", first as f64, "at least 1")?;
        let mut named = BTreeSet::new();
        match self.named().find(|unit| !named.insert(**unit)) {
            Some(unit) => Err(ConfigError::DuplicateUnit { unit: *unit }),
            None => Ok(()),
        }
    }

    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError> {
        self.validate()?;
        check_run(units, planned_steps)?;
        if let Some(unit) = self.named().find(|unit| !units.contains(unit)) {
            return Err(ConfigError::NoSuchUnit { unit: *unit });
        }
        Ok(Box::new(Scripted { memory: StepMemory::new(self.clone(), units, planned_steps) }))
    }
}

/// A script being played.
#[derive(Debug, Clone)]
struct Scripted {
    memory: StepMemory<ScriptedConfig>,
}

impl Scripted {
    fn frozen_by(&self, step: usize) -> (BTreeSet<UnitId>, BTreeSet<Companion>) {
        let StepMemory { config, units, .. } = &self.memory;
        let frozen = config.freeze.iter().filter(|freeze| freeze.step <= step).flat_map(|freeze| &freeze.units);
        let frozen = frozen.copied().collect();
        let companions = config.companions.frozen_with(units, &frozen);
        (frozen, companions)
    }
}

impl Policy for Scripted {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let ScriptedConfig { freeze, stop, .. } = &self.memory.config;
        Wants { decide: freeze.iter().any(|freeze| freeze.step == step) || *stop == Some(step), ..Wants::default() }
    }

    fn observe(&mut self, step: usize, _observation: &Observation<'_>) -> Decision {
        let mut decision = Decision { step, ..Decision::default() };
        if step <= self.memory.last_step {
            return decision;
        }
        let (before, now) = (self.frozen_by(self.memory.last_step), self.frozen_by(step));
        self.memory.last_step = step;
        decision.stop = match self.memory.config.stop {
            Some(last) => (step >= last).then_some(StopReason::Script),
            None => (now.0.len() == self.memory.units.len()).then_some(StopReason::AllFrozen),
        };
        decision.freeze = now.0.difference(&before.0).copied().collect();
        decision.freeze_companions = now.1.difference(&before.1).copied().collect();
        decision
    }

    fn in_force(&self) -> Decision {
        let step = self.memory.last_step;
        let (frozen, companions) = self.frozen_by(step);
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
    use crate::unit::{Role, Tower};

    fn units() -> [UnitId; 3] {
        [UnitId::language(0, Role::Q), UnitId::language(1, Role::Q), UnitId::language(1, Role::Down)]
    }

    fn at(step: usize, indices: &[usize]) -> Freeze {
        Freeze { step, units: indices.iter().map(|index| units()[*index]).collect() }
    }

    fn play(config: &ScriptedConfig) -> Vec<Decision> {
        let mut policy = config.build(&units(), 20).unwrap();
        let mut made = Vec::new();
        for step in 0..=20 {
            if !policy.wants(step).is_idle() {
                made.push(policy.observe(step, &Observation::default()));
                // A policy that was saved and put back in between decides alike.
                let mut resumed = config.build(&units(), 20).unwrap();
                resumed.restore(policy.state()).unwrap();
                assert_eq!(resumed.in_force(), policy.in_force());
                policy = resumed;
            }
        }
        made
    }

    #[test]
    fn the_script_is_played() {
        let freeze = vec![at(7, &[2, 1]), at(3, &[0])];
        let config = ScriptedConfig { freeze, companions: Companions::Follow, ..ScriptedConfig::default() };
        let [first, last] = &play(&config)[..] else { panic!("two steps have something to do") };
        assert_eq!((first.step, &first.freeze[..], first.stop), (3, &units()[..1], None));
        let norms = |layer| Companion::Norms { tower: Tower::Language, layer };
        assert_eq!(first.freeze_companions, [norms(0), Companion::Embedding { tower: Tower::Language }]);
        assert_eq!((last.step, &last.freeze[..], last.stop), (7, &units()[1..], Some(StopReason::AllFrozen)));
        assert_eq!(last.freeze_companions, [norms(1)]);
        // With an end of its own.
        let stop = ScriptedConfig { stop: Some(9), ..config };
        assert_eq!(
            play(&stop).iter().map(|d| (d.step, d.stop)).collect::<Vec<_>>(),
            [(3, None), (7, None), (9, Some(StopReason::Script))]
        );
    }

    #[test]
    fn matrices_that_are_not_there_or_freeze_twice_are_refused() {
        let twice = vec![at(3, &[0]), at(7, &[0])];
        let config = ScriptedConfig { freeze: twice, ..ScriptedConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("language.0.q"));
        let early = ScriptedConfig { freeze: vec![at(0, &[0])], ..ScriptedConfig::default() };
        assert!(early.validate().unwrap_err().to_string().contains("freeze.step"));
        let absent = vec![Freeze { step: 3, units: vec![UnitId::language(9, Role::Q)] }];
        let config = ScriptedConfig { freeze: absent, ..ScriptedConfig::default() };
        assert!(config.build(&units(), 20).unwrap_err().to_string().contains("language.9.q"));
    }
}
