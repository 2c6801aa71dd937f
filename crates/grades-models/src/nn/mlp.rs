//! The MLP.

use grades_tensor::{Activation, Var, ops};

use super::projection::Projection;
use super::run::Run;
use crate::parameters::Parameters;

/// `down(activation(gate(x)) · up(x))` (Shazeer 2020), or `down(activation(up(x)))`.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// `[gate | up]`, or up alone where nothing gates.
    pub(crate) up: Projection,
    /// The output.
    pub(crate) down: Projection,
    /// The non-linearity.
    pub(crate) activation: Activation,
    /// Whether there is a gate.
    pub(crate) gated: bool,
}

impl Mlp {
    /// Of the normed input, added to the residual where there is one.
    pub(super) fn forward(&self, run: Run<'_>, x: &Var, residual: Option<&Var>) -> Var {
        let activated = match self.gated {
            true => self.up.forward_gated(run, x, self.activation),
            false => ops::activate(run.tape, self.up.forward(run, x, None), self.activation),
        };
        self.down.forward(run, &activated, residual)
    }

    /// How many numbers of its matrices a token is multiplied by.
    pub(super) fn values_per_token(&self, parameters: &Parameters) -> usize {
        self.up.values(parameters) + self.down.values(parameters)
    }
}
