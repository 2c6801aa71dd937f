//! A mixture of experts in the place of an MLP.

use grades_tensor::{Dtype, Var, ops};

use super::mlp::Mlp;
use super::run::Run;
use crate::parameters::{ParameterId, Parameters};

/// The sum of what the likeliest experts of each token make of it (Shazeer et al. 2017). The rows of each expert's tokens lie
/// one behind another, so that an expert is an MLP like any other, and costs what its tokens cost.
#[derive(Debug)]
pub(crate) struct Experts {
    /// `[experts, hidden]`.
    pub(crate) router: ParameterId,
    pub(crate) experts: Vec<Mlp>,
    /// How many experts a token has.
    pub(crate) top_k: usize,
    /// Whether their weights add up to 1.
    pub(crate) normalise: bool,
}

impl Experts {
    /// Of the normed input, added to the residual where there is one. The router's logits are f32 in any run, as the decision
    /// is by small differences.
    pub(super) fn forward(&self, run: Run<'_>, x: &Var, residual: Option<&Var>) -> Var {
        let (device, [tokens, hidden]) = (x.value.device(), x.value.shape());
        let zeros = |columns| Var::constant(device.zeros([tokens, columns], Dtype::F32));
        let logits = ops::project(run.tape, x, &[run.leaf(self.router)], &[], Some(&zeros(self.experts.len())));
        let (weights, dispatch) = ops::route(run.tape, &logits, self.top_k, self.normalise, run.balance);
        let of_group = |group: &grades_tensor::Group| {
            let rows = ops::take_rows(run.tape, x, &group.tokens);
            self.experts[group.expert].forward(run, &rows, None)
        };
        let parts = dispatch.groups.iter().map(of_group).collect();
        let residual = residual.map_or_else(|| zeros(hidden), Var::clone);
        ops::combine(run.tape, &residual, parts, &dispatch, &weights)
    }

    /// How many numbers of its matrices a token is multiplied by.
    pub(super) fn values_per_token(&self, parameters: &Parameters) -> usize {
        let of_expert = self.experts.first().map_or(0, |expert| expert.values_per_token(parameters));
        parameters.get(self.router).len() + self.top_k * of_expert
    }
}
