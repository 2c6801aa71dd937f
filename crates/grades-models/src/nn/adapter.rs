//! The low-rank adapter beside one matrix of a linear layer.

use grades_tensor::{Tensor, ops};

use super::run::Run;
use crate::parameters::{Parameter, ParameterId, Parameters};

/// The adapter of one matrix.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// `[r, in]`.
    pub(crate) a: ParameterId,
    /// `[out, r]`.
    pub(crate) b: ParameterId,
    /// What DoRA adds to it.
    pub(crate) dora: Option<Dora>,
    /// Whether the weight holds it already.
    pub(crate) folded: bool,
}

/// What DoRA (Liu et al. 2024) adds to a pair.
#[derive(Clone, Debug)]
pub(crate) struct Dora {
    /// The length of each row, `[out]`.
    pub(crate) magnitude: ParameterId,
    /// The squared norm of each row of the base's weight, `[1, out]`.
    pub(crate) squares: Tensor,
}

impl Pair {
    /// Its parameters.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        [self.a, self.b].into_iter().chain(self.dora.as_ref().map(|dora| dora.magnitude))
    }

    /// What DoRA makes of the columns of its weight's output.
    pub(super) fn scale(&self, run: Run<'_>, weight: ParameterId, scaling: f32) -> ops::Scale {
        let value = |id| &run.parameters.get(id).value;
        match &self.dora {
            None => ops::Scale::Plain(value(weight).rows()),
            Some(Dora { magnitude, squares }) => {
                let (weight, a, b) = (value(weight), value(self.a), value(self.b));
                let norms = ops::adapted_row_norms(weight, squares, a, b, scaling);
                ops::Scale::Adapted { magnitude: run.leaf(*magnitude), norms }
            }
        }
    }

    /// Adds `s · B · A` to the weight; with DoRA each row of the sum becomes as long as its magnitude says.
    pub(crate) fn fold(&self, parameters: &mut Parameters, weight: ParameterId, scaling: f32) {
        let add = self.adding(parameters, scaling);
        let weight = parameters.get_mut(weight);
        // The sum is no number of bf16.
        weight.unpack();
        add(&mut weight.value);
    }

    /// What [`fold`](Self::fold) would make of the weight, in f32.
    pub(crate) fn folded(&self, parameters: &Parameters, weight: &Parameter, scaling: f32) -> Tensor {
        let mut sum = weight.dense();
        self.adding(parameters, scaling)(&mut sum);
        sum
    }

    fn adding(&self, parameters: &Parameters, scaling: f32) -> impl FnOnce(&mut Tensor) + use<> {
        let value = |id| parameters.get(id).value.clone();
        let (a, b) = (value(self.a), value(self.b));
        let magnitude = self.dora.as_ref().map(|dora| value(dora.magnitude));
        move |weight| weight.device().fold(weight, &a, &b, scaling, magnitude.as_ref())
    }
}
