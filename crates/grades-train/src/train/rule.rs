//! The rules by which optimizers update.

use grades_models::parameters::{Parameter, Piece};
use grades_tensor::{AdjustLr, state_scales};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The constants of Adam, with PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

/// The rule of the update, with PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "lowercase")]
pub enum Rule {
    /// Decoupled weight decay (Loshchilov and Hutter 2019), as `torch.optim.AdamW`.
    AdamW(Adam),
    /// The same with moments in 8 bits where there are at least [`MIN_8BIT`] elements, as `bitsandbytes.optim.AdamW8bit`.
    #[serde(rename = "adamw_8bit")]
    AdamW8bit(Adam),
    /// Chen et al. 2023, as `bitsandbytes.optim.Lion`.
    Lion {
        /// Weight of the momentum in a step.
        beta1: f64,
        /// Decay of the momentum.
        beta2: f64,
    },
    /// Jordan et al. 2024, as `torch.optim.Muon`, for the matrices of layers; AdamW for all else.
    Muon {
        /// Decay of the momentum.
        momentum: f64,
        /// Look ahead along the momentum.
        nesterov: bool,
        /// Steps of the Newton–Schulz iteration.
        ns_steps: usize,
        /// How the learning rate follows from the shape.
        adjust_lr_fn: AdjustLrFn,
        /// Of the rest.
        adam: Adam,
    },
    /// As `torch.optim.SGD`.
    Sgd {
        /// Decay of the velocity.
        momentum: f64,
    },
}

/// The fewest elements whose moments are kept in 8 bits, bitsandbytes' `min_8bit_size`.
pub const MIN_8BIT: usize = 4096;

impl Rule {
    /// The rule that a piece goes by: AdamW's where its own is not for it.
    #[must_use]
    pub fn of_piece(self, parameter: &Parameter, piece: &Piece) -> Self {
        let [rows, columns] = parameter.extent(piece).1;
        match self {
            Self::AdamW8bit(adam) if rows * columns < MIN_8BIT => Self::AdamW(adam),
            Self::Muon { adam, .. } if parameter.shape.len() != 2 || piece.place.unit().is_none() => Self::AdamW(adam),
            rule => rule,
        }
    }

    /// Memory of what it remembers of a piece of `elements` that goes by it, in bytes.
    #[must_use]
    pub fn state_bytes(self, elements: usize) -> u64 {
        let f32s = 4 * elements as u64;
        match self {
            Self::AdamW8bit(_) if elements >= MIN_8BIT => 2 * (elements + 4 * state_scales(elements)) as u64,
            Self::AdamW(_) | Self::AdamW8bit(_) => 2 * f32s,
            Self::Sgd { momentum: 0.0 } => 0,
            Self::Lion { .. } | Self::Muon { .. } | Self::Sgd { .. } => f32s,
        }
    }
}

impl std::fmt::Display for Rule {
    /// As the config would say it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |Adam { beta1, beta2, epsilon }: &Adam| {
            format!("adam_beta1 {beta1}, adam_beta2 {beta2}, adam_epsilon {epsilon:e}")
        };
        match self {
            Self::AdamW(adam) => write!(f, "optimizer: adamw ({})", of(adam)),
            Self::AdamW8bit(adam) => write!(f, "optimizer: adamw_8bit ({})", of(adam)),
            Self::Lion { beta1, beta2 } => write!(f, "optimizer: lion (adam_beta1 {beta1}, adam_beta2 {beta2})"),
            Self::Muon { momentum, nesterov, ns_steps, adjust_lr_fn, adam } => write!(
                f,
                "optimizer: muon (momentum {momentum}, nesterov {nesterov}, ns_steps {ns_steps}, adjust_lr_fn \
                 {adjust_lr_fn:?}, {})",
                of(adam)
            ),
            Self::Sgd { momentum } => write!(f, "optimizer: sgd (momentum {momentum})"),
        }
    }
}

/// How Muon's learning rate follows from the shape of a matrix, as in `torch.optim.Muon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLrFn {
    /// √max(1, rows / columns).
    Original,
    /// 0.2 · √max(rows, columns).
    #[serde(rename = "match_rms_adamw")]
    MatchRmsAdamW,
    /// √(rows / columns).
    SpectralUnclamped,
}

impl From<AdjustLrFn> for AdjustLr {
    fn from(adjust: AdjustLrFn) -> Self {
        match adjust {
            AdjustLrFn::Original => Self::Original,
            AdjustLrFn::MatchRmsAdamW => Self::MatchRmsAdamW,
            AdjustLrFn::SpectralUnclamped => Self::SpectralUnclamped,
        }
    }
}
