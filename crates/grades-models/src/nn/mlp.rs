//! The gated MLP.

use grades_tensor::{Activation, Var};

use super::projection::Projection;
use super::run::Run;
use crate::parameters::Parameters;

/// `down(activation(gate(x)) · up(x))` (Shazeer 2020).
#[derive(Debug)]
pub(crate) struct Mlp {
    /// `[gate | up]`.
    pub(crate) gate_up: Projection,
    /// The output.
    pub(crate) down: Projection,
    /// The non-linearity.
    pub(crate) activation: Activation,
}

impl Mlp {
    /// Of the normed input, added to the residual where there is one.
    pub(super) fn forward(&self, run: Run<'_>, x: &Var, residual: Option<&Var>) -> Var {
        let activated = self.gate_up.forward_gated(run, x, self.activation);
        self.down.forward(run, &activated, residual)
    }

    /// How many numbers of its matrices a token is multiplied by.
    pub(super) fn values_per_token(&self, parameters: &Parameters) -> usize {
        self.gate_up.values(parameters) + self.down.values(parameters)
    }
}
