//! The options of GradES, as a config file writes them, and what follows from them for one run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::auto::AutoTau;
use crate::check::{ConfigError, check_run, require};
use crate::companion::Companions;
use crate::norm::Norm;
use crate::signal::Signal;
use crate::threshold::{Tau, TauKey};
use crate::unit::UnitId;

/// The options of GradES. Every key may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The threshold. Default: `auto`, because a good number depends on model, data, batch size and learning rate.
    pub tau: Tau,
    /// What is measured. Default: what the threshold belongs to: `relative_gradient_change` for `auto`, `weight_change`
    /// for a preset, `gradient_change` (the paper's Eq. 1) for numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// The norm that measures it. Default: `l1`, as in the paper, but `frobenius` for `auto`, where it makes the noise
    /// floor independent of the distribution of the elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// Share of the planned steps, in [0, 1], during which nothing freezes. Default: 0.5 (§3.1), with a preset the
    /// preset's own, with `auto` what [`AutoTau`] says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// How many consecutive measurements must pass the threshold. Default: 1, as in the paper.
    pub patience: usize,
    /// Measures at every so many steps, the first time at the first step after the grace period. Gradients are compared
    /// with those of the step right before all the same, as Eq. 1 says; a change of weights over k steps is divided
    /// by k. So a threshold keeps its meaning. Default: 1.
    pub interval: usize,
    /// Whether a frozen unit is tried again. After as many steps as `tau: auto` averages over ([`AutoTau::window`]) it trains once more
    /// and is judged anew; where it freezes again, it waits twice as long as before. Once all units are frozen, training ends all
    /// the same. Default: false, as in the paper.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unfreeze: bool,
    /// Training stops when this share of the units is frozen, in (0, 1]. Default: 1, as in the paper.
    pub max_frozen_share: f64,
    /// Whether norms and embeddings freeze with the matrices around them. Default: `train`, as in the paper.
    pub companions: Companions,
    /// Whether the roles inside a fused projection (`qkv`, `gate_up`) are units of their own, as ranges of its rows, or
    /// the projection is one unit. The one who lists the units reads it
    /// ([`EarlyStopping::split_fused`](crate::EarlyStopping::split_fused), [`Role::monitored`](crate::Role::monitored));
    /// the monitor knows the units that it was given and nothing else. Default: true.
    pub split_fused: bool,
    /// Measures from the first step on, and writes all that the rules are given into `trace.jsonl`, for reports and trials of
    /// other rules ([`replay`](crate::replay)). Changes no decision. Default: false.
    pub trace: bool,
    /// The parameters of `tau: auto`.
    pub auto: AutoTau,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tau: Tau::Auto,
            signal: None,
            norm: None,
            alpha: None,
            patience: 1,
            interval: 1,
            unfreeze: false,
            max_frozen_share: 1.0,
            companions: Companions::Train,
            split_fused: true,
            trace: false,
            auto: AutoTau::default(),
        }
    }
}

impl Config {
    /// The paper's own settings with a threshold: Eq. 1 in the element-wise L1 norm, α = 0.5.
    pub fn paper(tau: f64) -> Self {
        Self { tau: Tau::Number(tau), ..Self::default() }
    }

    /// The signal that is measured, chosen by `tau` where `signal` is left out.
    pub fn signal(&self) -> Signal {
        self.signal.unwrap_or(match self.tau {
            Tau::Auto => Signal::RelativeGradientChange,
            Tau::Preset(_) => Signal::WeightChange,
            Tau::Number(_) | Tau::ByKey(_) => Signal::GradientChange,
        })
    }

    /// The norm that measures it, chosen by `tau` where `norm` is left out.
    pub fn norm(&self) -> Norm {
        self.norm.unwrap_or(if self.tau == Tau::Auto { Norm::Frobenius } else { Norm::L1 })
    }

    /// The grace period in steps, ⌈α·T⌉: decisions are made at later steps only, counted from 1.
    pub fn grace(&self, planned_steps: usize) -> usize {
        let alpha = match (self.alpha, &self.tau) {
            (Some(alpha), _) => alpha,
            (None, Tau::Auto) => return self.auto.grace(self.interval, planned_steps),
            (None, Tau::Preset(preset)) => preset.alpha(),
            (None, _) => 0.5,
        };
        share_of_steps(alpha, planned_steps)
    }

    /// Checks every value that does not depend on the model.
    ///
    /// # Errors
    /// The first key whose value cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let tau_range = match self.signal() {
            Signal::RelativeGradientChange => "a number from 0 up to, but not including, 1",
            _ => "a positive number",
        };
        let check_tau = |key: String, tau: f64| {
            let fits = match self.signal() {
                Signal::RelativeGradientChange => (0.0..1.0).contains(&tau),
                _ => tau > 0.0 && tau.is_finite(),
            };
            require(fits, key, tau, tau_range)
        };
        match &self.tau {
            Tau::Number(tau) => check_tau("tau".to_owned(), *tau)?,
            Tau::ByKey(map) => map.iter().try_for_each(|(key, tau)| check_tau(format!("tau.{key}"), *tau))?,
            Tau::Preset(preset) if self.signal() != Signal::WeightChange => {
                return Err(ConfigError::PresetSignal { preset: preset.name(), signal: self.signal() });
            }
            Tau::Auto if self.signal() != Signal::RelativeGradientChange => {
                return Err(ConfigError::AutoSignal { signal: self.signal() });
            }
            Tau::Auto if !matches!(self.norm(), Norm::L1 | Norm::Frobenius) => return Err(ConfigError::AutoNorm),
            Tau::Auto => self.auto.validate()?,
            Tau::Preset(_) => {}
        }
        if let Some(alpha) = self.alpha {
            require((0.0..=1.0).contains(&alpha), "alpha", alpha, "a number from 0 to 1")?;
        }
        require(self.patience >= 1, "patience", self.patience as f64, "at least 1")?;
        require(self.interval >= 1, "interval", self.interval as f64, "at least 1")?;
        let share = self.max_frozen_share;
        require(share > 0.0 && share <= 1.0, "max_frozen_share", share, "above 0 and at most 1")
    }

    /// Checks the config against the units of a model.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), and where units are missing, doubled, without a threshold, or not what a pattern
    /// expects.
    pub fn validate_for(&self, units: &[UnitId], planned_steps: usize) -> Result<(), ConfigError> {
        self.validate()?;
        check_run(units, planned_steps)?;
        if let Tau::ByKey(map) = &self.tau {
            for key in map.keys() {
                if let TauKey::Pattern(pattern) = key
                    && let Some(first) = units.first()
                    && !units.iter().any(|unit| key.matches(*unit))
                {
                    return Err(ConfigError::PatternMatchesNothing { pattern: pattern.clone(), example: *first });
                }
            }
        }
        match (units.iter().find(|unit| self.tau.of(**unit).is_none()), &self.tau) {
            (None, _) | (Some(_), Tau::Auto) => Ok(()),
            (Some(unit), Tau::Preset(preset)) => Err(ConfigError::PresetTower { preset: preset.name(), unit: *unit }),
            (Some(unit), _) => Err(ConfigError::NoThreshold { unit: *unit }),
        }
    }
}

/// What decisions depend on, in one line: two configs that print alike decide alike.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tau, patience, interval, unfreeze, max_frozen_share, companions, auto, .. } = self;
        write!(f, "signal={} norm={:?} tau={tau}", self.signal().name(), self.norm())?;
        match self.alpha {
            Some(alpha) => write!(f, " alpha={alpha}")?,
            None => write!(f, " alpha=default")?,
        }
        write!(
            f,
            " patience={patience} interval={interval} max_frozen_share={max_frozen_share} companions={companions:?}"
        )?;
        if *unfreeze {
            write!(f, " unfreeze")?;
        }
        match tau {
            Tau::Auto => write!(f, " auto={auto:?}"),
            _ => Ok(()),
        }
    }
}

/// ⌈share · steps⌉, not thrown up by the rounding of the product: ⌈0.55 · 100⌉ is 55, though the product is
/// 55.000000000000007 in doubles.
pub(crate) fn share_of_steps(share: f64, steps: usize) -> usize {
    let exact = share * steps as f64;
    let nearest = exact.round();
    if (exact - nearest).abs() <= 1e-9 * nearest.max(1.0) { nearest as usize } else { exact.ceil() as usize }
}
