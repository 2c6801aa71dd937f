//! Freezing by a script: which matrices freeze at which step is written down beforehand.
//!
//! It plays what another method has decided, or a control of it: as many matrices at the same steps, chosen otherwise.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::contract::{Cost, Method, Observation, Policy, PolicyMemory, PolicyState, check_run_of};
use crate::check::{ConfigError, check_run};
use crate::companion::{Companion, Companions};
use crate::decision::{Decision, Wants};
use crate::event::StopReason;
use crate::state::RestoreError;
use crate::unit::UnitId;

const NAME: &str = "scripted";

/// The options of `method: scripted`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
        let units = units.iter().copied().collect();
        Ok(Box::new(Scripted { config: self.clone(), planned_steps, units, last_step: 0 }))
    }
}

/// A script being played.
#[derive(Debug, Clone)]
struct Scripted {
    config: ScriptedConfig,
    planned_steps: usize,
    units: BTreeSet<UnitId>,
    last_step: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedState {
    config: ScriptedConfig,
    planned_steps: usize,
    last_step: usize,
}

impl Scripted {
    fn frozen_by(&self, step: usize) -> BTreeSet<UnitId> {
        self.config.freeze.iter().filter(|f| f.step <= step).flat_map(|f| &f.units).copied().collect()
    }

    fn companions_by(&self, step: usize) -> BTreeSet<Companion> {
        self.config.companions.frozen_with(&self.units, &self.frozen_by(step))
    }

    fn stop(&self, step: usize) -> Option<StopReason> {
        match self.config.stop {
            Some(last) => (step >= last).then_some(StopReason::Script),
            None => (self.frozen_by(step).len() == self.units.len()).then_some(StopReason::AllFrozen),
        }
    }
}

impl Policy for Scripted {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wants(&self, step: usize) -> Wants {
        let decide = self.config.freeze.iter().any(|freeze| freeze.step == step) || self.config.stop == Some(step);
        Wants { decide, ..Wants::default() }
    }

    fn observe(&mut self, step: usize, _observation: &Observation<'_>) -> Decision {
        let before = self.last_step;
        self.last_step = before.max(step);
        let mut decision = Decision { step, ..Decision::default() };
        if step > before || step == 0 {
            let frozen = if step == 0 { BTreeSet::new() } else { self.frozen_by(before) };
            let companions = if step == 0 { BTreeSet::new() } else { self.companions_by(before) };
            decision.freeze = self.frozen_by(step).difference(&frozen).copied().collect();
            decision.freeze_companions = self.companions_by(step).difference(&companions).copied().collect();
            decision.stop = self.stop(step);
        }
        decision
    }

    fn in_force(&self) -> Decision {
        Decision {
            step: self.last_step,
            freeze: self.frozen_by(self.last_step).into_iter().collect(),
            freeze_companions: self.companions_by(self.last_step).into_iter().collect(),
            ..Decision::default()
        }
    }

    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn state(&self) -> PolicyState {
        let Self { config, planned_steps, last_step, .. } = self.clone();
        let memory = PolicyMemory::new(NAME, &ScriptedState { config, planned_steps, last_step });
        PolicyState { memory, cost: Cost::default(), buffers: Default::default() }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError> {
        let saved: ScriptedState = state.memory.read(NAME)?;
        check_run_of((&saved.config, saved.planned_steps), (&self.config, self.planned_steps))?;
        self.last_step = saved.last_step;
        Ok(())
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
        let absent = vec![Freeze { step: 3, units: vec![UnitId::language(9, Role::Q)] }];
        let config = ScriptedConfig { freeze: absent, ..ScriptedConfig::default() };
        assert!(config.build(&units(), 20).unwrap_err().to_string().contains("language.9.q"));
    }
}
