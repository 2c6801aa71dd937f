//! What makes rows of a language model of a vision tower's output.

use std::sync::Arc;

use grades_tensor::{Activation, Dtype, Var, ops};

use super::projection::Projection;
use super::run::Run;
use crate::parameters::Parameters;

/// Neighbouring patches side by side, and a linear map of them, or two with a non-linearity between.
#[derive(Debug)]
pub(crate) struct Projector {
    pub(crate) first: Projection,
    pub(crate) second: Option<(Activation, Projection)>,
}

impl Projector {
    /// Rows `rows` of the tower's normed output, `together` of them side by side, to f32 `[rows / together, hidden]`, as which
    /// they join the residual stream.
    pub(crate) fn forward(&self, run: Run<'_>, x: &Var, rows: &Arc<Vec<u32>>, together: usize) -> Var {
        let x = ops::side_by_side(run.tape, ops::take_rows(run.tape, x, rows), together);
        let (x, last) = match &self.second {
            None => (x, &self.first),
            Some((activation, second)) => {
                (ops::activate(run.tape, self.first.forward(run, &x, None), *activation), second)
            }
        };
        let width = last.weights.iter().map(|&weight| run.parameters.get(weight).rows()).sum();
        let zeros = x.value.device().zeros([x.value.rows(), width], Dtype::F32);
        last.forward(run, &x, Some(&Var::constant(zeros)))
    }

    /// Its linear layers, in the order of the data.
    pub(crate) fn projections(&self) -> impl Iterator<Item = &Projection> {
        std::iter::once(&self.first).chain(self.second.as_ref().map(|(_, second)| second))
    }

    /// The same, to be changed.
    pub(crate) fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        std::iter::once(&mut self.first).chain(self.second.as_mut().map(|(_, second)| second))
    }

    /// How many numbers of its matrices a row is multiplied by.
    pub(crate) fn values_per_row(&self, parameters: &Parameters) -> usize {
        self.first.values(parameters) + self.second.as_ref().map_or(0, |(_, second)| second.values(parameters))
    }
}
