//! The norm of a layer.

use grades_tensor::{Leaf, Tensor, Var, ops};

use super::run::Run;
use crate::parameters::ParameterId;

/// `x / √(mean(x²) + eps) · (offset + scale)` by row; with a bias `(x − mean) / √(var + eps) · scale + bias`.
#[derive(Debug)]
pub(crate) struct Norm {
    /// `[width]`.
    pub(crate) scale: ParameterId,
    /// What is added to the scale, `[1, width]`; of most architectures nothing.
    pub(crate) offset: Option<Tensor>,
    /// The bias of a layer norm, `[width]`; an RMS norm has none.
    pub(crate) bias: Option<ParameterId>,
    /// Added to the mean square, or to the variance.
    pub(crate) eps: f32,
}

impl Norm {
    /// f32 x `[tokens, width]` to the run's dtype.
    pub(crate) fn forward(&self, run: Run<'_>, x: &Var) -> Var {
        match self.bias {
            None => ops::rms_norm(run.tape, x, &self.leaf(run), self.eps, run.dtype),
            Some(bias) => {
                let parameters = [&self.leaf(run), &run.leaf(bias)];
                ops::layer_norm(run.tape, x, parameters, self.eps, run.dtype)
            }
        }
    }

    /// The residual plus x of any dtype normed, in f32, `[tokens, width]` each.
    pub(super) fn add(&self, run: Run<'_>, residual: &Var, x: Var) -> Var {
        ops::add_normed(run.tape, residual, x, &self.leaf(run), self.eps)
    }

    /// What multiplies, with the gradient of the scale: that of a sum is that of each of its terms.
    pub(super) fn leaf(&self, run: Run<'_>) -> Leaf {
        let scale = run.leaf(self.scale);
        let Some(offset) = &self.offset else { return scale };
        let mut value = offset.clone();
        value.device().add(&mut value, &scale.value);
        Leaf { value, ..scale }
    }
}
