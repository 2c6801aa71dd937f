//! What is measured of a matrix in a step, and the four signals made from it.

use serde::{Deserialize, Serialize};

use crate::norm::{Norm, ShapeError};

/// The norms of one tensor of one unit at one optimizer step: plain scalars, so that any framework can supply them.
///
/// The gradient is the one that the optimizer gets: the mean over the accumulated micro-batches, before clipping, after
/// the all-reduce of distributed training. All values of a run use one [`Norm`]. What a signal does not need may stay
/// `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Measurement {
    /// ‖∇W_t‖.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient: Option<f64>,
    /// ‖∇W_{t−1}‖.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<f64>,
    /// ‖∇W_t − ∇W_{t−1}‖. At step 1, where nothing precedes, leave it and `previous` at `None`: the
    /// [`Monitor`](crate::Monitor) applies the paper's ∇W_0 := 0 there, and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<f64>,
    /// ‖W_t − W_s‖ after the optimizer's update of step t, where s is the last step at which
    /// [`Wants::keep_weight`](crate::Wants::keep_weight) asked for a copy. The monitor divides by t − s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_change: Option<f64>,
}

impl Measurement {
    /// Measures a gradient `[rows, cols]` and, where it was kept, its change against the previous one.
    ///
    /// # Errors
    /// If a slice does not hold the whole matrix.
    pub fn of_gradient(
        norm: Norm,
        shape: [usize; 2],
        gradient: &[f32],
        previous: Option<&[f32]>,
    ) -> Result<Self, ShapeError> {
        Ok(Self {
            gradient: Some(norm.of(gradient, shape)?),
            previous: previous.map(|p| norm.of(p, shape)).transpose()?,
            change: previous.map(|p| norm.of_difference(gradient, p, shape)).transpose()?,
            weight_change: None,
        })
    }

    /// Measures how far a weight `[rows, cols]` has moved from its kept copy.
    ///
    /// # Errors
    /// If a slice does not hold the whole matrix.
    pub fn of_weight(norm: Norm, shape: [usize; 2], weight: &[f32], kept: &[f32]) -> Result<Self, ShapeError> {
        Ok(Self { weight_change: Some(norm.of_difference(weight, kept, shape)?), ..Self::default() })
    }

    /// A measurement whose signal is `value`: feeds recorded signals back into a [`Monitor`](crate::Monitor).
    pub fn of_signal(signal: Signal, value: f64) -> Self {
        let mut measurement = Self::default();
        match signal {
            Signal::GradientChange => measurement.change = Some(value),
            Signal::Gradient => measurement.gradient = Some(value),
            Signal::WeightChange => measurement.weight_change = Some(value),
            Signal::RelativeGradientChange => {
                measurement =
                    Self { gradient: Some(0.5), previous: Some(0.5), change: Some(value), weight_change: None }
            }
        }
        measurement
    }

    /// The paper's ∇W_0 := 0 (Algorithm 1, line 4), for the first step of a run.
    pub(crate) fn after_zero_gradient(self) -> Self {
        Self { previous: self.previous.or(Some(0.0)), change: self.change.or(self.gradient), ..self }
    }
}

/// The quantity that tells whether a unit has converged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// ‖∇W_t − ∇W_{t−1}‖ (Eq. 1, Algorithm 1).
    #[default]
    GradientChange,
    /// ‖∇W_t‖ (§3.1, Eq. 3).
    Gradient,
    /// ‖W_t − W_{t−1}‖ after the optimizer's update: what the authors' Python package measures, hence what the
    /// published thresholds belong to.
    WeightChange,
    /// ρ = ‖∇W_t − ∇W_{t−1}‖ / (‖∇W_t‖ + ‖∇W_{t−1}‖), in [0, 1]. It *rises* to about 1/√2 as consecutive gradients
    /// lose what they have in common; units freeze when it is above their threshold.
    RelativeGradientChange,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 4] = [Self::GradientChange, Self::Gradient, Self::WeightChange, Self::RelativeGradientChange];

    /// The name used in configs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::GradientChange => "gradient_change",
            Self::Gradient => "gradient",
            Self::WeightChange => "weight_change",
            Self::RelativeGradientChange => "relative_gradient_change",
        }
    }

    /// The signal of a unit from the measurements of its tensors (one, or A and B of a LoRA pair).
    ///
    /// Several tensors add up (Eq. 3). Of the relative signal, numerator and denominator add up apart, so that it stays
    /// in [0, 1] and each tensor counts by the size of its gradient.
    ///
    /// `None` where a value is missing, negative or not finite, and for the relative signal also where one of the two
    /// gradients is zero: a comparison with nothing says nothing about direction, though its quotient would be 1.
    pub fn value(self, parts: &[Measurement]) -> Option<f64> {
        if parts.is_empty() {
            return None;
        }
        let sum = |of: fn(&Measurement) -> Option<f64>| {
            parts.iter().try_fold(0.0, |sum, part| of(part).filter(|v| *v >= 0.0).map(|v| sum + v))
        };
        let value = match self {
            Self::GradientChange => sum(|m| m.change)?,
            Self::Gradient => sum(|m| m.gradient)?,
            Self::WeightChange => sum(|m| m.weight_change)?,
            Self::RelativeGradientChange => {
                let (now, before) = (sum(|m| m.gradient)?, sum(|m| m.previous)?);
                if now == 0.0 || before == 0.0 {
                    return None;
                }
                sum(|m| m.change)? / (now + before)
            }
        };
        value.is_finite().then_some(value)
    }

    /// Whether `value` counts as converged against the threshold `tau`.
    pub fn passes(self, value: f64, tau: f64) -> bool {
        match self {
            Self::RelativeGradientChange => value > tau,
            Self::GradientChange | Self::Gradient | Self::WeightChange => value < tau,
        }
    }

    /// Whether the signal compares a gradient with the one of the step before.
    pub(crate) fn needs_previous_gradient(self) -> bool {
        matches!(self, Self::GradientChange | Self::RelativeGradientChange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(gradient: f64, previous: f64, change: f64) -> Measurement {
        Measurement { gradient: Some(gradient), previous: Some(previous), change: Some(change), weight_change: None }
    }

    #[test]
    fn signals_by_hand() {
        let m =
            Measurement::of_gradient(Norm::L1, [2, 2], &[1.0, -2.0, 0.0, 4.0], Some(&[1.0, 1.0, 0.0, 1.0])).unwrap();
        assert_eq!(m, part(7.0, 3.0, 6.0));
        assert_eq!(Signal::GradientChange.value(&[m]), Some(6.0));
        assert_eq!(Signal::Gradient.value(&[m]), Some(7.0));
        assert_eq!(Signal::RelativeGradientChange.value(&[m]), Some(0.6));
        assert_eq!(Signal::WeightChange.value(&[m]), None);
        let w = Measurement::of_weight(Norm::L1, [1, 2], &[1.0, 2.0], &[0.5, 3.0]).unwrap();
        assert_eq!(Signal::WeightChange.value(&[w]), Some(1.5));
    }

    #[test]
    fn adapter_pairs_add_up() {
        let pair = [part(3.0, 1.0, 2.0), part(10.0, 6.0, 8.0)];
        assert_eq!(Signal::GradientChange.value(&pair), Some(10.0));
        assert_eq!(Signal::Gradient.value(&pair), Some(13.0));
        assert_eq!(Signal::RelativeGradientChange.value(&pair), Some(0.5));
    }

    #[test]
    fn broken_values_are_missing() {
        for signal in Signal::ALL {
            assert_eq!(signal.value(&[]), None);
            assert_eq!(signal.value(&[Measurement::default()]), None);
            for bad in [f64::NAN, f64::INFINITY, -1.0] {
                let broken = Measurement {
                    gradient: Some(bad),
                    previous: Some(1.0),
                    change: Some(bad),
                    weight_change: Some(bad),
                };
                assert_eq!(signal.value(&[broken]), None);
                assert_eq!(signal.value(&[Measurement::of_signal(signal, 0.5), broken]), None);
            }
        }
        assert_eq!(Signal::RelativeGradientChange.value(&[part(2.0, 0.0, 2.0)]), None);
        assert_eq!(Signal::RelativeGradientChange.value(&[part(0.0, 2.0, 2.0)]), None);
    }

    #[test]
    fn recorded_signals_come_back() {
        for signal in Signal::ALL {
            assert_eq!(signal.value(&[Measurement::of_signal(signal, 0.7)]), Some(0.7));
        }
    }
}
