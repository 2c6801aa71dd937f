//! `tau: auto`: a unit freezes when consecutive gradients have nothing in common any more.
//!
//! Two gradients of independent batches share the true gradient and differ by noise. While there is something to learn
//! they point the same way a little; when only noise is left they are orthogonal, and the relative gradient change ρ
//! reaches its floor (1/√2 for Gaussian elements and gradients of equal size). The detector follows the *agreement*
//!
//! a = (‖∇W_t‖² + ‖∇W_{t−1}‖² − ‖∇W_t − ∇W_{t−1}‖²) / (2 ‖∇W_t‖ ‖∇W_{t−1}‖),
//!
//! which for gradients of equal size is 1 − 2ρ². In the Frobenius norm it is the cosine of the two gradients, with floor
//! 0 whatever the distribution of their elements, hence the default; in the L1 norm it equals the cosine for Gaussian
//! elements and lies a little lower for heavier tails. It is a test for evidence of a gradient in the spirit of Mahsereci
//! et al. 2017.
//!
//! Each unit's agreement is averaged over a window. There are three ways to converge:
//!
//! - *exhausted*: the unit's average has stayed at the noise floor for half a window (or, with `freeze: gain`, its gain is
//!   not worth its arithmetic; see the module `gain`);
//! - *stalled*: samples are learnt by heart, and the mean of all units' averages has come close to the floor and then not
//!   fallen further for a whole window. Agreement that rises again comes from memorising them. Then all units that still
//!   train count as converged. Before samples are known agreement that rises is progress, and nothing stalls; but what has stayed close to the
//!   floor in the last window need not be waited for again;
//! - *nothing gained*: samples are learnt by heart, and since they come again updates have gained less than a fifth of their
//!   mean gain for 25 steps (see the module `gain`). Then, too, all units that still train count as converged.
//!
//! Whether samples are learnt by heart is seen where they come again, from the second epoch on: the training loss then falls at once (see
//! the module `staircase`). Where the loop tells no training loss they count as known from there on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{ConfigError, require};
use crate::exact;
use crate::gain::{GainAverage, Gains, StepGains};
use crate::norm::Norm;
use crate::signal::Measurement;
use crate::staircase::Staircase;
use crate::unit::UnitId;

/// The parameters of `tau: auto`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AutoTau {
    /// Steps of learning-rate warm-up. Default: those of the run, if the training loop tells them
    /// ([`EarlyStopping::for_run`](crate::EarlyStopping::for_run)), else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Steps of one epoch, after which samples repeat. Default: those of the run, if the training loop tells them, else
    /// unknown, and no repetition is assumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_steps: Option<usize>,
    /// Measurements over which agreement is averaged: each new one counts 1/window. Unless `alpha` is set, nothing
    /// freezes before so many measurements after the warm-up. Default: a twelfth of the planned steps, at least 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// The relative gradient change of pure noise, in (0, 1). Default: 0.7071 for `frobenius`; 0.725 for `l1`, where
    /// measured plateaus lie between those of Gaussian (0.707) and Laplacian (0.75) elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// How far above the floor the average agreement of a unit may be to count as exhausted. Default: 0.
    pub exhausted: f64,
    /// How far above the floor the mean of all averages may be to count as close to it. Default: 0.08.
    pub stalled: f64,
    /// The share of the mean gain so far below which the present gain counts as nothing left, in [0, 1); 0 asks for no
    /// gains. Default: 0.2.
    pub gain: f64,
    /// What freezes single matrices before the end. Default: `agreement`.
    pub freeze: FreezeBy,
    /// Which tensors of a LoRA pair are judged. Default: `last`, which is B: its agreement falls clearly to the floor
    /// where that of A stays above it.
    pub parts: JudgedTensors,
}

/// What freezes single matrices with `tau: auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FreezeBy {
    /// Agreement of consecutive gradients that has fallen to the floor.
    #[default]
    Agreement,
    /// A gain that is, with some certainty, not worth the arithmetic of the matrix's weight gradient.
    Gain,
    /// Nothing: all matrices end together.
    None,
}

/// Which tensors of a unit `tau: auto` judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum JudgedTensors {
    /// The last one: B of a LoRA pair.
    #[default]
    Last,
    /// All of them as one, their norms added.
    Together,
}

impl Default for AutoTau {
    fn default() -> Self {
        Self {
            warmup_steps: None,
            epoch_steps: None,
            window: None,
            floor: None,
            exhausted: 0.0,
            stalled: 0.08,
            gain: 0.2,
            freeze: FreezeBy::Agreement,
            parts: JudgedTensors::Last,
        }
    }
}

impl AutoTau {
    /// The relative gradient change of pure noise.
    pub fn threshold(&self, norm: Norm) -> f64 {
        self.floor.unwrap_or(match norm {
            Norm::L1 => 0.725,
            Norm::Frobenius | Norm::Spectral | Norm::Inf | Norm::One => std::f64::consts::FRAC_1_SQRT_2,
        })
    }

    /// The window in measurements.
    pub fn window(&self, planned_steps: usize) -> usize {
        self.window.unwrap_or((planned_steps / 12).max(10))
    }

    fn warmup(&self) -> usize {
        self.warmup_steps.unwrap_or(0)
    }

    /// The last step at which nothing may freeze, where `alpha` does not say.
    pub(crate) fn grace(&self, interval: usize, planned_steps: usize) -> usize {
        self.warmup().saturating_add(self.window(planned_steps).saturating_mul(interval))
    }

    /// Where the averages begin: gradients of the warm-up fall fast and would linger in them.
    pub(crate) fn first_measured_step(&self) -> usize {
        self.warmup().saturating_add(1)
    }

    /// What the detector needs to know of a run.
    pub(crate) fn rule(&self, norm: Norm, interval: usize, planned_steps: usize) -> Rule {
        let floor = 1.0 - 2.0 * self.threshold(norm).powi(2);
        Rule {
            window: self.window(planned_steps),
            settled_after: self.grace(interval, planned_steps),
            epoch_steps: self.epoch_steps,
            exhausted: floor + self.exhausted,
            stalled: floor + self.stalled,
            gain: self.gain,
            freeze: self.freeze,
            parts: self.parts,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let range = "a number from 0 up to, but not including, 1";
        require(self.window != Some(0), "auto.window", 0.0, "at least 1")?;
        require((0.0..1.0).contains(&self.exhausted), "auto.exhausted", self.exhausted, range)?;
        require((0.0..1.0).contains(&self.stalled), "auto.stalled", self.stalled, range)?;
        require((0.0..1.0).contains(&self.gain), "auto.gain", self.gain, range)?;
        let floor = self.floor.unwrap_or(0.5);
        require(floor > 0.0 && floor < 1.0, "auto.floor", floor, "a number between 0 and 1")
    }
}

/// The parameters, resolved for one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    window: usize,
    /// The step after which averages can be trusted: a low among the first would be luck.
    settled_after: usize,
    epoch_steps: Option<usize>,
    /// Agreement up to which a unit is exhausted.
    exhausted: f64,
    /// Mean agreement up to which all may have stalled.
    stalled: f64,
    /// The share of the mean gain below which nothing is left.
    gain: f64,
    freeze: FreezeBy,
    parts: JudgedTensors,
}

impl Rule {
    /// Whether every sample has been seen before.
    fn repeats(&self, step: usize) -> bool {
        self.epoch_steps.is_some_and(|epoch| step > epoch)
    }
}

/// A lower mean than this much counts as having fallen further; less is within the noise of an average.
const STEP: f64 = 0.01;

/// The memory of `tau: auto` over one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Detector {
    averages: BTreeMap<UnitId, Average>,
    /// The lowest mean of all averages since samples are known, or since it has been close to the floor before that.
    #[serde(with = "exact")]
    lowest: f64,
    /// Measurements since then.
    since_lowest: usize,
    gains: Gains,
    #[serde(default, skip_serializing_if = "Staircase::is_empty")]
    staircase: Staircase,
    /// With `freeze: gain`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unit_gains: BTreeMap<UnitId, OfUnit>,
}

/// What is known of a unit's gain.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfUnit {
    of: GainAverage,
    /// The share of a step's arithmetic that its freezing saves.
    #[serde(with = "exact")]
    saves: f64,
}

/// An exponential moving average, unbiased from its first value on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Average {
    /// Σ weight · value, the newest weighing most.
    #[serde(with = "exact")]
    sum: f64,
    /// Σ weight.
    #[serde(with = "exact")]
    weight: f64,
    /// For how many measurements in a row the average has been at the floor.
    at_floor: usize,
}

impl Average {
    fn add(&mut self, value: f64, window: usize) {
        let keep = 1.0 - 1.0 / window as f64;
        self.sum = keep * self.sum + value;
        self.weight = keep * self.weight + 1.0;
    }

    fn value(&self) -> f64 {
        self.sum / self.weight
    }
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            averages: BTreeMap::new(),
            lowest: f64::INFINITY,
            since_lowest: 0,
            gains: Gains::default(),
            staircase: Staircase::default(),
            unit_gains: BTreeMap::new(),
        }
    }
}

impl Detector {
    /// Whether updates gain nothing any more but what is learnt by heart.
    pub(crate) fn gains_nothing(&self) -> bool {
        self.gains.are_exhausted() && self.staircase.is_found()
    }

    /// Whether samples come again and are learnt by heart.
    fn memorises(&self, rule: &Rule, step: usize) -> bool {
        rule.repeats(step) && self.staircase.is_found()
    }

    /// Takes in the training loss of a step.
    pub(crate) fn observe_loss(&mut self, rule: &Rule, step: usize, loss: f64) {
        if let Some(epoch) = rule.epoch_steps {
            self.staircase.add(step, loss, epoch);
        }
    }

    /// Takes in what an update has gained.
    pub(crate) fn observe_gains(&mut self, rule: &Rule, step: usize, gains: &StepGains<'_>) {
        self.gains.add(gains.total(), rule.gain, rule.repeats(step));
        if rule.freeze == FreezeBy::Gain && gains.flops > 0 {
            for unit in gains.units.iter().filter(|unit| unit.gain.is_finite()) {
                let average = self.unit_gains.entry(unit.unit).or_default();
                average.of.add(unit.gain);
                average.saves = unit.saves as f64 / gains.flops as f64;
            }
        }
    }

    /// A frozen unit trains again: it freezes once more after half a window at the floor, or by gains from now on.
    pub(crate) fn judge_anew(&mut self, unit: UnitId) {
        if let Some(average) = self.averages.get_mut(&unit) {
            average.at_floor = 0;
        }
        self.unit_gains.remove(&unit);
    }

    /// Whether a unit's gain is not worth its arithmetic.
    fn is_too_dear(&self, unit: UnitId) -> bool {
        let mean = self.gains.mean();
        mean > 0.0 && self.unit_gains.get(&unit).is_some_and(|gain| gain.of.is_below(mean * gain.saves))
    }

    /// Takes in one measured step: the tensors of each unit that still trains. Returns the units that count as
    /// converged at this step. A unit without a sound measurement keeps its average and does not count; a frozen unit's
    /// last average goes on counting in the mean, so that the mean does not move because a unit has left.
    pub(crate) fn converged<'a>(
        &mut self,
        rule: &Rule,
        step: usize,
        measured: impl Iterator<Item = (UnitId, &'a [Measurement])>,
    ) -> Vec<UnitId> {
        let mut present = Vec::new();
        for (unit, parts) in measured {
            if let Some(agreement) = agreement(rule.parts, parts) {
                let average = self.averages.entry(unit).or_default();
                average.add(agreement, rule.window);
                average.at_floor = if average.value() <= rule.exhausted { average.at_floor + 1 } else { 0 };
                present.push((unit, average.at_floor));
            }
        }
        if step > rule.settled_after && !present.is_empty() {
            let mean = self.averages.values().map(Average::value).sum::<f64>() / self.averages.len() as f64;
            if mean > rule.stalled && !self.memorises(rule, step) {
                // Agreement that rises before samples are known is progress, and what was lowest before it does not count.
                (self.lowest, self.since_lowest) = (f64::INFINITY, 0);
            } else if mean < self.lowest - STEP {
                (self.lowest, self.since_lowest) = (mean, 0);
            } else {
                self.since_lowest += 1;
            }
        }
        let stalled = self.memorises(rule, step) && self.lowest <= rule.stalled && self.since_lowest >= rule.window;
        let over = stalled || self.gains_nothing();
        present.retain(|(unit, at_floor)| {
            over || match rule.freeze {
                FreezeBy::Agreement => *at_floor >= rule.window.div_ceil(2),
                FreezeBy::Gain => self.is_too_dear(*unit),
                FreezeBy::None => false,
            }
        });
        present.into_iter().map(|(unit, _)| unit).collect()
    }
}

/// The agreement of two consecutive gradients from their norms, in [−1, 1].
fn agreement(which: JudgedTensors, parts: &[Measurement]) -> Option<f64> {
    let judged = match which {
        JudgedTensors::Last => parts.last().map(std::slice::from_ref)?,
        JudgedTensors::Together => parts,
    };
    let sum = |of: fn(&Measurement) -> Option<f64>| judged.iter().map(of).sum::<Option<f64>>();
    let (now, before, change) = (sum(|m| m.gradient)?, sum(|m| m.previous)?, sum(|m| m.change)?);
    // Without one of the gradients there is no angle between them.
    if !(now > 0.0 && before > 0.0 && change >= 0.0) {
        return None;
    }
    // Divided before they are multiplied, so that tiny gradients do not underflow.
    let agreement = (now / before + before / now - change / now * (change / before)) / 2.0;
    agreement.is_finite().then(|| agreement.clamp(-1.0, 1.0))
}
