//! `tau: auto`: a unit freezes when consecutive gradients have nothing in common any more.
//!
//! Two gradients of independent batches share the true gradient and differ by noise. While there is something to learn
//! they point the same way a little; when only noise is left they are orthogonal, and the relative gradient change ρ
//! reaches its floor (1/√2 for Gaussian elements and gradients of equal size). The detector follows the *agreement*
//!
//! a = (‖∇W_t‖² + ‖∇W_{t−1}‖² − ‖∇W_t − ∇W_{t−1}‖²) / (2 ‖∇W_t‖ ‖∇W_{t−1}‖),
//!
//! which for gradients of equal size is 1 − 2ρ². In the Frobenius norm it is the cosine of the two gradients, with floor
//! 0 whatever the distribution of their elements; in the L1 norm it equals the cosine for Gaussian elements and lies a
//! little lower for heavier tails. It is a test for evidence of a gradient in the spirit of Mahsereci et al. 2017.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, require};
use crate::norm::Norm;
use crate::signal::Measurement;

/// The parameters of `tau: auto`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoTau {
    /// Steps of learning-rate warm-up. The training loop fills it in where the config does not. Default: 0.
    pub warmup_steps: usize,
    /// Measurements over which the agreement is averaged: each new one counts 1/window. Nothing freezes before so many
    /// steps after the warm-up, unless `alpha` is set. Default: 10.
    pub window: usize,
    /// A unit counts as converged while its averaged agreement is at most so much above the noise floor. Default: 0.02.
    pub margin: f64,
    /// The relative gradient change of pure noise, in (0, 1). Default: 0.7071 for `frobenius`, 0.715 for `l1`, where
    /// measured plateaus lie between those of Gaussian (0.707) and Laplacian (0.75) elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// Which tensors of a LoRA pair are judged. Default: `last`, which is B: its agreement falls clearly to the floor
    /// where that of A stays above it.
    pub parts: Parts,
}

/// Which tensors of a unit `tau: auto` judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parts {
    /// The last one: B of a LoRA pair.
    #[default]
    Last,
    /// All of them as one, their norms added.
    Together,
}

impl Default for AutoTau {
    fn default() -> Self {
        Self { warmup_steps: 0, window: 10, margin: 0.02, floor: None, parts: Parts::Last }
    }
}

impl AutoTau {
    /// The relative gradient change of pure noise.
    pub fn threshold(&self, norm: Norm) -> f64 {
        self.floor.unwrap_or(match norm {
            Norm::L1 => 0.715,
            Norm::Frobenius | Norm::Spectral | Norm::Inf | Norm::One => std::f64::consts::FRAC_1_SQRT_2,
        })
    }

    /// The last step at which nothing may freeze, where `alpha` does not say.
    pub(crate) fn grace(&self) -> usize {
        self.warmup_steps + self.window
    }

    /// Where the averages begin: gradients of the warm-up fall fast and would linger in them.
    pub(crate) fn first_measured_step(&self) -> usize {
        self.warmup_steps + 1
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        require(self.window >= 1, "auto.window", self.window as f64, "at least 1")?;
        require(
            (0.0..1.0).contains(&self.margin),
            "auto.margin",
            self.margin,
            "a number from 0 up to, but not including, 1",
        )?;
        let floor = self.floor.unwrap_or(0.5);
        require(floor > 0.0 && floor < 1.0, "auto.floor", floor, "a number between 0 and 1")
    }
}

/// The memory of the detector of one unit: an exponential moving average of its agreement.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Detector {
    /// Σ weight · agreement, the newest weighing most.
    #[serde(with = "crate::state::exact")]
    sum: f64,
    /// Σ weight, so that the average is unbiased from the start.
    #[serde(with = "crate::state::exact")]
    weight: f64,
}

impl Detector {
    /// Takes a measurement in; true if the unit counts as converged. A broken one leaves the average as it was and
    /// does not count.
    pub(crate) fn passes(&mut self, auto: &AutoTau, norm: Norm, parts: &[Measurement]) -> bool {
        let Some(agreement) = agreement(auto.parts, parts) else {
            return false;
        };
        let keep = 1.0 - 1.0 / auto.window as f64;
        self.sum = keep * self.sum + agreement;
        self.weight = keep * self.weight + 1.0;
        let floor = 1.0 - 2.0 * auto.threshold(norm).powi(2);
        self.sum / self.weight <= floor + auto.margin
    }
}

/// The agreement of two consecutive gradients from their norms, in [−1, 1].
fn agreement(which: Parts, parts: &[Measurement]) -> Option<f64> {
    let judged = match which {
        Parts::Last => parts.last().map(std::slice::from_ref)?,
        Parts::Together => parts,
    };
    let sum = |of: fn(&Measurement) -> Option<f64>| judged.iter().map(of).sum::<Option<f64>>().filter(|v| *v > 0.0);
    let (now, before) = (sum(|m| m.gradient)?, sum(|m| m.previous)?);
    let change = judged.iter().map(|m| m.change).sum::<Option<f64>>()?;
    // Divided before they are multiplied, so that tiny gradients do not underflow.
    let agreement = (now / before + before / now - change / now * (change / before)) / 2.0;
    agreement.is_finite().then(|| agreement.clamp(-1.0, 1.0))
}
