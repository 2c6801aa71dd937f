//! The RMS norm of a layer.

use grades_tensor::{Var, ops};

use super::run::Run;
use crate::parameters::ParameterId;

/// `x / √(mean(x²) + eps) · scale` by row.
#[derive(Debug)]
pub(crate) struct Norm {
    /// `[width]`.
    pub(crate) scale: ParameterId,
    /// Added to the mean square.
    pub(crate) eps: f32,
}

impl Norm {
    /// f32 x `[tokens, width]` to the run's dtype.
    pub(crate) fn forward(&self, run: Run<'_>, x: &Var) -> Var {
        ops::rms_norm(run.tape, x, &run.leaf(self.scale), self.eps, run.dtype)
    }
}
