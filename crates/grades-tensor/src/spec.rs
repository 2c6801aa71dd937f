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
    /// The loss is `scale · Σ −log p(target)`; `1 / labels` makes it a mean.
    pub scale: f32,
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
