//! A transformer layer: attention and an MLP, each behind a norm and beside a residual.

use std::sync::Arc;

use grades_tensor::{Layout, Var};

use super::attention::{Attention, KeysAndValues};
use super::experts::Experts;
use super::mlp::Mlp;
use super::norm::Norm;
use super::projection::Projection;
use super::run::Run;
use crate::parameters::Parameters;

/// What a layer does with each row by itself.
#[derive(Debug)]
pub(crate) enum FeedForward {
    /// One MLP for all.
    Dense(Mlp),
    /// Those of some experts for each.
    Sparse(Experts),
}

impl FeedForward {
    /// Of the normed input, added to the residual where there is one.
    fn forward(&self, run: Run<'_>, x: &Var, residual: Option<&Var>) -> Var {
        match self {
            Self::Dense(mlp) => mlp.forward(run, x, residual),
            Self::Sparse(experts) => experts.forward(run, x, residual),
        }
    }

    fn mlps(&self) -> &[Mlp] {
        match self {
            Self::Dense(mlp) => std::slice::from_ref(mlp),
            Self::Sparse(experts) => &experts.experts,
        }
    }

    fn mlps_mut(&mut self) -> &mut [Mlp] {
        match self {
            Self::Dense(mlp) => std::slice::from_mut(mlp),
            Self::Sparse(experts) => &mut experts.experts,
        }
    }
}

/// One layer of a stack.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: FeedForward,
    /// The norms of what attention and the MLP add to the residual, where they have any.
    pub(crate) out_norms: Option<[Norm; 2]>,
}

impl Layer {
    /// `[tokens, hidden]` to `[tokens, hidden]`, the residual stream in f32.
    pub(crate) fn forward(
        &self,
        run: Run<'_>,
        x: &Var,
        layout: &Arc<Layout>,
        cache: Option<&mut Option<KeysAndValues>>,
    ) -> Var {
        self.beyond_attention(run, &self.see(run, x, layout, cache), x)
    }

    /// What each token of the input sees of the others, `[tokens, heads · head_dim]`.
    pub(crate) fn see(
        &self,
        run: Run<'_>,
        x: &Var,
        layout: &Arc<Layout>,
        cache: Option<&mut Option<KeysAndValues>>,
    ) -> Var {
        self.attention.see(run, &self.attention_norm.forward(run, x), layout, cache)
    }

    /// The rest, which is row by row: what the rows saw is added to their input x, and the MLP follows.
    pub(crate) fn beyond_attention(&self, run: Run<'_>, seen: &Var, x: &Var) -> Var {
        let [of_attention, of_mlp] = self.out_norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some));
        let x = add(run, x, of_attention, |residual| self.attention.o.forward(run, seen, residual));
        add(run, &x, of_mlp, |residual| self.mlp.forward(run, &self.mlp_norm.forward(run, &x), residual))
    }

    /// Its linear layers, in the order of the data.
    pub(crate) fn projections(&self) -> impl Iterator<Item = &Projection> {
        let of_mlps = self.mlp.mlps().iter().flat_map(|mlp| [&mlp.gate_up, &mlp.down]);
        [&self.attention.qkv, &self.attention.o].into_iter().chain(of_mlps)
    }

    /// The same, to be changed.
    pub(crate) fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let of_mlps = self.mlp.mlps_mut().iter_mut().flat_map(|mlp| [&mut mlp.gate_up, &mut mlp.down]);
        [&mut self.attention.qkv, &mut self.attention.o].into_iter().chain(of_mlps)
    }

    /// How many numbers of its matrices a token is multiplied by: of experts those that it has.
    pub(crate) fn values_per_token(&self, parameters: &Parameters) -> usize {
        let of_mlp = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.values_per_token(parameters),
            FeedForward::Sparse(experts) => experts.values_per_token(parameters),
        };
        self.attention.qkv.values(parameters) + self.attention.o.values(parameters) + of_mlp
    }

    /// Whether it has experts.
    pub(crate) fn is_sparse(&self) -> bool {
        matches!(self.mlp, FeedForward::Sparse(_))
    }
}

/// The residual plus what a block makes, normed where there is a norm of it; without one the block adds itself.
fn add(run: Run<'_>, residual: &Var, norm: Option<&Norm>, block: impl FnOnce(Option<&Var>) -> Var) -> Var {
    match norm {
        None => block(Some(residual)),
        Some(norm) => norm.add(run, residual, block(None)),
    }
}
