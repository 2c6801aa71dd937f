//! Controls: what a method is held against, made from its finished run.
//!
//! A method that stops parts of a model saves arithmetic in two ways at once: it ends earlier, and it chooses what ends. Each
//! control keeps one of the two and drops the other.

use std::collections::{BTreeMap, BTreeSet};

use grades::policy::budget::BudgetConfig;
use grades::policy::scripted::{Freeze, ScriptedConfig};
use grades::{Companions, EarlyStopping, UnitId};
use grades_report::Run;
use grades_report::record::Event;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::finished::Finished;
use super::outcome::flops;
use crate::config::{Averaging, Config};

/// A way of doing without what a method does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// No stopping: a cosine that ends where the method ended.
    Shorter,
    /// The method's schedule, everything stopped at once when as much arithmetic is spent.
    AllAtOnce,
    /// As many matrices frozen at the same steps, drawn at random.
    Random,
    /// As many matrices frozen at the same steps, in the reverse order.
    Reverse,
}

impl Control {
    pub(super) const ALL: [Self; 4] = [Self::Shorter, Self::AllAtOnce, Self::Random, Self::Reverse];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shorter => "shorter",
            Self::AllAtOnce => "all_at_once",
            Self::Random => "random",
            Self::Reverse => "reverse",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|control| control.name() == name)
    }

    /// Whether its config begins as the one of the method, and not as that of training without stopping.
    pub(super) fn is_like_its_method(self) -> bool {
        self != Self::Shorter
    }

    /// The config of the control: `config` with what the method's run says.
    ///
    /// # Errors
    /// Why there can be none, as a clause.
    pub(super) fn config(self, config: Config, of: &Finished) -> Result<Config, String> {
        let weight_average = config.weight_average().map_or(Averaging::None, Averaging::Kind);
        let early_stopping = match self {
            Self::Shorter => return Ok(Config { max_steps: Some(of.summary.steps.max(1)), ..config }),
            Self::AllAtOnce => {
                EarlyStopping::Budget(BudgetConfig { flops: Some(flops(of)), ..BudgetConfig::default() })
            }
            Self::Random | Self::Reverse => {
                let run = Run::read(&of.run).map_err(|error| error.to_string())?;
                EarlyStopping::Scripted(self.script(&run, config.seed)?)
            }
        };
        Ok(Config { early_stopping, weight_average, ..config })
    }

    /// As many freezes at the same steps as in `run`, of other matrices.
    fn script(self, run: &Run, seed: u64) -> Result<ScriptedConfig, String> {
        let mut frozen: Vec<(usize, UnitId)> = Vec::new();
        let (mut stop, mut companions) = (None, Companions::Train);
        for event in &run.events {
            let Event::Decision(event) = event else { continue };
            match event {
                grades::Event::Freeze { step, unit, .. } => frozen.push((*step, *unit)),
                grades::Event::FreezeCompanion { .. } => companions = Companions::Follow,
                grades::Event::Stop { step, .. } => stop = Some(*step),
                _ => return Err("its method does more than freeze matrices once".to_owned()),
            }
        }
        let in_order: BTreeSet<UnitId> = frozen.iter().map(|(_, unit)| *unit).collect();
        let never = run.units.units.iter().map(|unit| unit.unit).filter(|unit| !in_order.contains(unit));
        let mut others: Vec<UnitId> = never.chain(frozen.iter().rev().map(|(_, unit)| *unit)).collect();
        if self == Self::Random {
            others.sort_unstable();
            others.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        let mut by_step: BTreeMap<usize, Vec<UnitId>> = BTreeMap::new();
        for ((step, _), unit) in frozen.iter().zip(others) {
            by_step.entry(*step).or_default().push(unit);
        }
        let freeze = by_step.into_iter().map(|(step, units)| Freeze { step, units }).collect();
        Ok(ScriptedConfig { freeze, stop, companions })
    }
}

#[cfg(test)]
mod tests {
    use grades::{Role, StopReason};
    use grades_report::record::UnitThreshold;

    use super::*;

    fn run() -> Run {
        let unit = |layer| UnitId::language(layer, Role::Q);
        let freeze = |step, layer| Event::Decision(grades::Event::Freeze { step, unit: unit(layer), signal: None });
        let mut run = Run {
            events: vec![
                freeze(5, 2),
                freeze(5, 0),
                freeze(8, 1),
                Event::Decision(grades::Event::Stop { step: 9, reason: StopReason::MaxFrozenShare }),
            ],
            ..Run::default()
        };
        run.units.units = (0..5).map(|layer| UnitThreshold { unit: unit(layer), threshold: None }).collect();
        run
    }

    #[test]
    fn as_many_matrices_freeze_at_the_same_steps() {
        let unit = |layer| UnitId::language(layer, Role::Q);
        // Those that never froze come first, the first to freeze last.
        let reverse = Control::Reverse.script(&run(), 0).unwrap();
        let at = |step, layers: &[usize]| Freeze { step, units: layers.iter().map(|layer| unit(*layer)).collect() };
        assert_eq!(reverse.freeze, [at(5, &[3, 4]), at(8, &[1])]);
        assert_eq!((reverse.stop, reverse.companions), (Some(9), Companions::Train));
        let scripts: Vec<_> = (0..20).map(|seed| Control::Random.script(&run(), seed).unwrap().freeze).collect();
        for script in &scripts {
            assert_eq!(
                script.iter().map(|freeze| (freeze.step, freeze.units.len())).collect::<Vec<_>>(),
                [(5, 2), (8, 1)]
            );
        }
        assert!(scripts.iter().any(|script| *script != scripts[0]));
        assert_eq!(scripts[3], Control::Random.script(&run(), 3).unwrap().freeze);
    }

    #[test]
    fn a_method_that_does_more_has_no_such_control() {
        let mut run = run();
        let unit = UnitId::language(0, Role::Q);
        run.events.push(Event::Decision(grades::Event::Unfreeze { step: 9, unit }));
        assert!(Control::Random.script(&run, 0).unwrap_err().contains("more than freeze"));
    }
}
