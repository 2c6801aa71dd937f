//! What is wrong with options or with what they are used on, and the sentences that say so.

use crate::signal::Signal;
use crate::unit::UnitId;

/// A config that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A number outside its range.
    #[error("`{key}: {value}` is out of range: it must be {range}")]
    OutOfRange {
        /// The key.
        key: String,
        /// What it holds.
        value: f64,
        /// What it may hold.
        range: &'static str,
    },
    /// A preset with a signal that it was not found with.
    #[error(
        "`tau: {preset}` was found with the signal `weight_change`, not `{}`: leave `signal` out or write a number for `tau`",
        signal.name()
    )]
    PresetSignal {
        /// The preset's name.
        preset: &'static str,
        /// The signal asked for.
        signal: Signal,
    },
    /// `tau: auto` with another signal than its own.
    #[error(
        "`tau: auto` judges the signal `relative_gradient_change`, not `{}`: leave `signal` out or write a number for `tau`",
        signal.name()
    )]
    AutoSignal {
        /// The signal asked for.
        signal: Signal,
    },
    /// `tau: auto` with a norm whose noise floor is not known.
    #[error("`tau: auto` knows the noise floor of the norms `l1` and `frobenius` only: choose one of them as `norm`")]
    AutoNorm,
    /// A preset on a model with a tower that the paper has no threshold for.
    #[error(
        "`tau: {preset}` has thresholds for the towers `vision` and `language` only, not for the matrix `{unit}`: write a \
         number or a map with a `default` key for `tau`"
    )]
    PresetTower {
        /// The preset's name.
        preset: &'static str,
        /// The first unit without a threshold.
        unit: UnitId,
    },
    /// A unit that no key of the `tau` map matches.
    #[error("`tau` has no threshold for the matrix `{unit}`: add a `default` key or one that matches it")]
    NoThreshold {
        /// The unit.
        unit: UnitId,
    },
    /// A pattern that matches no unit.
    #[error(
        "the key `{pattern}` of `tau` matches no matrix of this model, whose first is `{example}`: correct or remove it"
    )]
    PatternMatchesNothing {
        /// The pattern.
        pattern: String,
        /// A unit of the model.
        example: UnitId,
    },
    /// No units.
    #[error("there is no matrix to monitor: check that the model has projections and that they train")]
    NoUnits,
    /// A unit listed twice.
    #[error("the matrix `{unit}` is listed twice: list every matrix once")]
    DuplicateUnit {
        /// The unit.
        unit: UnitId,
    },
    /// A matrix in the options that the model does not have.
    #[error(
        "`freeze` names the matrix `{unit}`, which this model does not have or does not train: correct or remove it"
    )]
    NoSuchUnit {
        /// The unit.
        unit: UnitId,
    },
    /// A budget of nothing.
    #[error("`method: budget` needs to know what may be spent: give `flops`, `seconds` or `memory`")]
    NoBudget,
    /// No steps.
    #[error("no training steps are planned: `max_steps` or `num_epochs` must give at least one")]
    NoSteps,
}

/// Fails unless there are units, each once, and steps.
pub(crate) fn check_run(units: &[UnitId], planned_steps: usize) -> Result<(), ConfigError> {
    if units.is_empty() {
        return Err(ConfigError::NoUnits);
    }
    let mut sorted = units.to_vec();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ConfigError::DuplicateUnit { unit: pair[0] });
    }
    if planned_steps == 0 { Err(ConfigError::NoSteps) } else { Ok(()) }
}

/// Fails unless `fits`.
pub(crate) fn require(fits: bool, key: impl Into<String>, value: f64, range: &'static str) -> Result<(), ConfigError> {
    if fits { Ok(()) } else { Err(ConfigError::OutOfRange { key: key.into(), value, range }) }
}
