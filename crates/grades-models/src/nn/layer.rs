//! A transformer layer: attention and an MLP, each behind a norm and beside a residual.

use std::sync::Arc;

use grades_tensor::{Layout, Tensor, Var, ops};

use super::attention::{Attention, KeysAndValues};
use super::experts::Experts;
use super::mlp::Mlp;
use super::norm::Norm;
use super::projection::Projection;
use super::run::Run;
use crate::parameters::{ParameterId, Parameters};

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
    /// What becomes of what attention and the MLP give before it is added to the residual.
    pub(crate) out: Option<[Out; 2]>,
}

/// What becomes of what a block gives before it is added to the residual.
#[derive(Debug)]
pub(crate) enum Out {
    /// It is normed.
    Norm(Norm),
    /// Each of its columns has a factor (layer scale, Touvron et al. 2021).
    Scale {
        /// `[width]`.
        factors: ParameterId,
        /// Ones, `[1, width]`.
        ones: Tensor,
    },
}

impl Out {
    /// The residual plus what a block gave, f32 `[tokens, hidden]`.
    fn add(&self, run: Run<'_>, residual: &Var, y: Var) -> Var {
        match self {
            Self::Norm(norm) => norm.add(run, residual, y),
            Self::Scale { factors, ones } => {
                let scale = ops::Scale::Adapted { magnitude: run.leaf(*factors), norms: ones.clone() };
                ops::rescale(run.tape, y, vec![scale], &[], Some(residual))
            }
        }
    }
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
        let [of_attention, of_mlp] = self.out.as_ref().map_or([None; 2], |out| out.each_ref().map(Some));
        let x = add(run, x, of_attention, |residual| self.attention.o.forward(run, seen, residual));
        add(run, &x, of_mlp, |residual| self.mlp.forward(run, &self.mlp_norm.forward(run, &x), residual))
    }

    /// Its linear layers, in the order of the data.
    pub(crate) fn projections(&self) -> impl Iterator<Item = &Projection> {
        let of_mlps = self.mlp.mlps().iter().flat_map(|mlp| [&mlp.up, &mlp.down]);
        [&self.attention.qkv, &self.attention.o].into_iter().chain(of_mlps)
    }

    /// The same, to be changed.
    pub(crate) fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let of_mlps = self.mlp.mlps_mut().iter_mut().flat_map(|mlp| [&mut mlp.up, &mut mlp.down]);
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

/// The residual plus what a block makes; where nothing becomes of that before, the block adds itself.
fn add(run: Run<'_>, residual: &Var, out: Option<&Out>, block: impl FnOnce(Option<&Var>) -> Var) -> Var {
    match out {
        None => block(Some(residual)),
        Some(out) => out.add(run, residual, block(None)),
    }
}
