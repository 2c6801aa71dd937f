//! What operations need to know beside their tensors.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use grades_kernels::activations::Activation;
pub use grades_kernels::cross_entropy::{IGNORE_INDEX, Label};
pub use grades_kernels::optimizer::{AdamW, AdjustLr, Lion, Muon, Sgd, StateMap, state_scales};

/// What a cross-entropy computes.
#[derive(Clone, Debug)]
pub struct CrossEntropySpec {
    /// The token to predict at each row, [`IGNORE_INDEX`] where there is none, `[rows]`.
    pub targets: Arc<Vec<i64>>,
    /// What each `−log p(target)` is multiplied by in the sum.
    pub scale: LossScale,
}

/// What the losses of rows are multiplied by before they are added up.
#[derive(Clone, Debug)]
pub enum LossScale {
    /// All by this one: `1 / labels` makes the sum a mean.
    Same(f32),
    /// Each by its own, `[rows]`.
    Each(Arc<Vec<f32>>),
}

impl LossScale {
    /// That of a row.
    #[must_use]
    pub fn of(&self, row: usize) -> f32 {
        match self {
            Self::Same(scale) => *scale,
            Self::Each(scales) => scales[row],
        }
    }
}

/// The labels of rows with the tokens that should follow them, [`IGNORE_INDEX`] where there is none.
#[must_use]
pub fn labels_of(targets: &[i64]) -> Vec<Label> {
    let label = |(row, &target)| Some(Label { row: u32::try_from(row).ok()?, token: u32::try_from(target).ok()? });
    targets.iter().enumerate().filter_map(label).collect()
}

/// What measuring one gradient g against the one before it, p, gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Σ g².
    pub squares: f64,
    /// ‖g‖ in the norm asked for.
    pub norm: Option<f64>,
    /// ‖p‖.
    pub previous: Option<f64>,
    /// ‖g − p‖.
    pub change: Option<f64>,
}
