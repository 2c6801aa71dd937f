//! The operations that models are made of: one trait over Burn's backends.
//!
//! Every method has a default body of stock Burn operations (`stock.rs`), so every backend works; the CPU backend
//! `Flex` overrides them with this project's kernels (`flex.rs`); one generic implementation gives their gradients
//! (`autodiff.rs`). The functions at the end of this file are the same operations over [`Tensor`], which is what the
//! models call. A batch is flat: `[tokens, width]`, its samples described by a [`Layout`].
//!
//! Weights, their gradients and the residual stream are f32. What lies between is f32 or bf16, and a product is one of
//! bf16 numbers where its input is bf16: [`Ops::rms_norm`] is where a model chooses.

mod attention;
mod autodiff;
mod dropout;
mod flex;
mod flops;
mod low_rank;
mod packed;
mod precision;
mod stock;
mod tensors;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

pub use attention::{AttentionSpec, Layout, RopeTable, Segment};
pub use dropout::{Dropout, DropoutOps, dropout};
pub use flops::{Flops, executed_flops};
pub use grades_kernels::cross_entropy::Label;
pub use low_rank::{LowRank, LowRankOps, add_low_rank};
pub use packed::{PackedOps, PackedWeights, project_packed};
pub use precision::Precision;
pub use tensors::Tensors;

/// The non-linearity of a gated MLP: `activation(gate) · up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)` (SwiGLU).
    Silu,
    /// `x · Φ(x)`, exact.
    Gelu,
    /// The tanh approximation of `Gelu`.
    GeluTanh,
}

/// The target of a token that has no loss.
pub const IGNORE: i64 = -100;

/// What a cross-entropy computes in one pass over its logits, which are never held all at once.
#[derive(Clone, Debug)]
pub struct CrossEntropySpec {
    /// The token to predict at each row, [`IGNORE`] where there is none, `[rows]`.
    pub targets: Arc<Vec<i64>>,
    /// The loss is `scale · Σ −log p(target)`; `1 / labels` makes it a mean.
    pub scale: f32,
}

/// Where one operation leaves its gradient for another, which runs after it in the backward pass, to add to.
///
/// Burn adds two gradients of one tensor by an operation of its own. For a tied embedding that is a second matrix of
/// `[vocabulary, hidden]`: with a tie the head's backward pass leaves its weight gradient here instead of registering it,
/// and the embedding's, which runs after it because the head depends on the embedding's output, adds its rows and
/// registers the sum. Only sound where that dependence is tracked: the model gives a tie to both operations only when
/// the embedding's weight is tracked, and a head whose input is untracked registers its gradient itself.
///
/// Between an adapter and the projection beside it, a tie carries a [`Beside`]: the projection, whose output the adapter
/// takes and nothing else does, runs after it and adds its own gradient in the product.
#[derive(Clone, Debug, Default)]
pub struct Tie(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

/// What an adapter leaves for the projection beside it.
struct Beside<B: Backend> {
    /// Its gradient in their common input.
    dx: FloatTensor<B>,
    /// The gradient of their common output, in the numbers of x.
    dy: FloatTensor<B>,
}

impl Tie {
    fn put<T: Any + Send>(&self, gradient: T) {
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(Box::new(gradient));
        }
    }

    fn take<T: Any + Send>(&self) -> Option<T> {
        let gradient = self.0.lock().ok()?.take()?;
        gradient.downcast().ok().map(|gradient| *gradient)
    }
}

/// Operations of a transformer, forward and backward.
#[backend_extension(Flex, Autodiff)]
pub trait Ops: Backend {
    /// `y = x · [W₁; W₂; …]ᵀ + b + residual`: x `[tokens, in]`, each W `[outᵢ, in]`, y `[tokens, Σ outᵢ]`.
    ///
    /// `biases` is empty or one `[1, outᵢ]` a weight; `residual` is empty or one f32 `[tokens, Σ outᵢ]`, and then y is f32
    /// too; else y has the numbers of x.
    fn project(
        x: FloatTensor<Self>,
        #[extension_type] weights: Tensors<Self>,
        #[extension_type] biases: Tensors<Self>,
        #[extension_type] residual: Tensors<Self>,
    ) -> FloatTensor<Self> {
        stock::project::<Self>(x, weights, biases, residual)
    }

    /// [`project`](Ops::project) with something beside it that takes the same x and adds to y, and whose gradient in x comes
    /// through `tie`, where there is one, instead of on its own.
    fn project_beside(
        x: FloatTensor<Self>,
        #[extension_type] weights: Tensors<Self>,
        #[extension_type] biases: Tensors<Self>,
        #[extension_type] residual: Tensors<Self>,
        tie: Option<Tie>,
    ) -> FloatTensor<Self> {
        let _ = tie;
        Self::project(x, weights, biases, residual)
    }

    /// The gradient of [`project`](Ops::project) in its input: `dx = dy · [W₁; W₂; …]`, `[tokens, in]`, in the numbers of
    /// dy.
    fn project_input_gradient(dy: FloatTensor<Self>, #[extension_type] weights: Tensors<Self>) -> FloatTensor<Self> {
        stock::project_input_gradient::<Self>(dy, weights)
    }

    /// [`project_input_gradient`](Ops::project_input_gradient) added to `onto`, `[tokens, in]` in the numbers of dy.
    fn project_input_gradient_onto(
        dy: FloatTensor<Self>,
        #[extension_type] weights: Tensors<Self>,
        onto: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_add(onto, Self::project_input_gradient(dy, weights))
    }

    /// `y = activation(x · Wᵍᵀ) · (x · Wᵘᵀ)`: x `[tokens, in]`, the two weights `[out, in]`, y `[tokens, out]`.
    fn gated_project(
        x: FloatTensor<Self>,
        #[extension_type] weights: Tensors<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        Self::gated_project_forward(x, weights, activation).0
    }

    /// [`gated_project`](Ops::gated_project), and the two products that its gradient needs, side by side:
    /// `[tokens, 2 · out]`.
    fn gated_project_forward(
        x: FloatTensor<Self>,
        #[extension_type] weights: Tensors<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let joined = Self::project(x, weights, Tensors(Vec::new()), Tensors(Vec::new()));
        (Self::gated_activation(joined.clone(), activation), joined)
    }

    /// The gradients of [`project`](Ops::project) in the weights behind ranges of the columns of y:
    /// `dW = dy[:, columns]ᵀ · x`, `[columns, in]` in f32 each; dy and x have the same numbers.
    fn project_weight_gradients(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        columns: Vec<Range<usize>>,
    ) -> Tensors<Self> {
        let one = |columns| stock::project_weight_gradient::<Self>(dy.clone(), x.clone(), columns);
        Tensors(columns.into_iter().map(one).collect())
    }

    /// The same numbers in another precision, rounded where it is the lower one.
    fn in_precision(x: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        Self::float_cast(x, precision.dtype())
    }

    /// `y = x / √(mean(x²) + eps) · scale` by row, in `precision`: f32 x `[tokens, width]`, scale `[1, width]` (Zhang and
    /// Sennrich 2019).
    fn rms_norm(x: FloatTensor<Self>, scale: FloatTensor<Self>, eps: f32, precision: Precision) -> FloatTensor<Self> {
        Self::rms_norm_forward(x, scale, eps, precision).0
    }

    /// [`rms_norm`](Ops::rms_norm) and the `1 / √(mean(x²) + eps)` of each row, `[tokens, 1]`.
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        eps: f32,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (y, inverse) = stock::rms_norm_forward::<Self>(x, scale, eps);
        (Self::float_cast(y, precision.dtype()), inverse)
    }

    /// The gradients of [`rms_norm`](Ops::rms_norm): dx `[tokens, width]`, and dscale `[1, width]` where it is wanted.
    fn rms_norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        inverse_rms: FloatTensor<Self>,
        want_scale: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        stock::rms_norm_backward::<Self>(dy, x, scale, inverse_rms, want_scale)
    }

    /// Softmax attention over the samples of a batch: `[q | k | v]` `[tokens, (heads + 2 kv_heads) · head_dim]` to
    /// `[tokens, heads · head_dim]`. Queries and keys are rotated here when the spec holds a rope table.
    fn self_attention(qkv: FloatTensor<Self>, spec: AttentionSpec) -> FloatTensor<Self> {
        let (q, k, v) = Self::split_heads(qkv, spec.clone());
        Self::attend(q, k, v, spec).0
    }

    /// Splits `[q | k | v]` and rotates q and k: q `[tokens, heads · head_dim]`, k and v `[tokens, kv_heads · head_dim]`.
    fn split_heads(
        qkv: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        stock::split_heads::<Self>(qkv, &spec)
    }

    /// The gradient of [`split_heads`](Ops::split_heads): rotates dq and dk back and joins the three.
    fn join_heads(
        dq: FloatTensor<Self>,
        dk: FloatTensor<Self>,
        dv: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> FloatTensor<Self> {
        stock::join_heads::<Self>(dq, dk, dv, &spec)
    }

    /// Attention over split, rotated heads: the output `[tokens, heads · head_dim]` and the log-sum-exp of each row of
    /// scores `[tokens, heads]`, all that the backward pass keeps of the scores.
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        stock::attend::<Self>(q, k, v, &spec)
    }

    /// The gradients of [`attend`](Ops::attend) in q, k and v.
    fn attend_backward(
        dout: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        stock::attend_backward::<Self>(dout, q, k, v, out, log_sum_exp, &spec)
    }

    /// `activation(gate) · up` of `[gate | up]` `[tokens, 2 · width]` (Shazeer 2020).
    fn gated_activation(gate_up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        stock::gated_activation::<Self>(gate_up, activation)
    }

    /// The gradient of [`gated_activation`](Ops::gated_activation), `[tokens, 2 · width]`.
    fn gated_activation_backward(
        dy: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        stock::gated_activation_backward::<Self>(dy, gate_up, activation)
    }

    /// Rows `ids` of `weight` `[vocabulary, hidden]`: `[tokens, hidden]`, in its numbers.
    fn embed(weight: FloatTensor<Self>, ids: Arc<Vec<u32>>, tie: Option<Tie>) -> FloatTensor<Self> {
        let _ = tie;
        stock::embed::<Self>(weight, &ids)
    }

    /// The gradient of [`embed`](Ops::embed): the rows of dy added at `ids` to `onto`, or to zeros of
    /// `[vocabulary, hidden]` where `onto` is empty.
    fn embed_backward(
        dy: FloatTensor<Self>,
        #[extension_type] onto: Tensors<Self>,
        ids: Arc<Vec<u32>>,
        vocabulary: usize,
    ) -> FloatTensor<Self> {
        stock::embed_backward::<Self>(dy, onto, &ids, vocabulary)
    }

    /// `scale · Σ −log softmax(hidden · Wᵀ)[target]` as `[1]`: hidden `[rows, hidden]`, weight `[vocabulary, hidden]`.
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        spec: CrossEntropySpec,
        tie: Option<Tie>,
    ) -> FloatTensor<Self> {
        let _ = tie;
        Self::cross_entropy_forward(hidden, weight, spec, false, false).0
    }

    /// [`cross_entropy`](Ops::cross_entropy) together with its gradients in `hidden` and in `weight` where they are
    /// wanted, all from one pass over the logits.
    fn cross_entropy_forward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        spec: CrossEntropySpec,
        want_hidden: bool,
        want_weight: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        stock::cross_entropy::<Self>(hidden, weight, &spec, want_hidden, want_weight)
    }

    /// `log softmax(hidden · Wᵀ)[row, token]` of every label, `[labels]`; they are in the order of their rows.
    fn log_likelihoods(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        labels: Arc<Vec<Label>>,
    ) -> FloatTensor<Self> {
        stock::log_likelihoods::<Self>(hidden, weight, &labels)
    }
}

fn tensors(list: Vec<Tensor<2>>) -> Tensors<Dispatch> {
    Tensors(list.into_iter().map(Tensor::into_dispatch).collect())
}

/// [`Ops::project`].
#[must_use]
pub fn project(
    x: Tensor<2>,
    weights: Vec<Tensor<2>>,
    biases: Vec<Tensor<2>>,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    project_beside(x, weights, biases, residual, None)
}

/// [`Ops::project_beside`].
#[must_use]
pub fn project_beside(
    x: Tensor<2>,
    weights: Vec<Tensor<2>>,
    biases: Vec<Tensor<2>>,
    residual: Option<Tensor<2>>,
    tie: Option<Tie>,
) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let out: usize = weights.iter().map(|w| w.dims()[0]).sum();
    flops::forward(flops::product(tokens, out, width));
    Tensor::from_dispatch(Dispatch::project_beside(
        x.into_dispatch(),
        tensors(weights),
        tensors(biases),
        tensors(residual.into_iter().collect()),
        tie,
    ))
}

/// [`Ops::gated_project`].
#[must_use]
pub fn gated_project(x: Tensor<2>, weights: Vec<Tensor<2>>, activation: Activation) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let out: usize = weights.iter().map(|w| w.dims()[0]).sum();
    flops::forward(flops::product(tokens, out, width));
    Tensor::from_dispatch(Dispatch::gated_project(x.into_dispatch(), tensors(weights), activation))
}

/// [`Ops::rms_norm`].
#[must_use]
pub fn rms_norm(x: Tensor<2>, scale: Tensor<2>, eps: f32, precision: Precision) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), scale.into_dispatch(), eps, precision))
}

/// [`Ops::self_attention`].
#[must_use]
pub fn self_attention(qkv: Tensor<2>, spec: AttentionSpec) -> Tensor<2> {
    flops::forward(spec.operations());
    Tensor::from_dispatch(Dispatch::self_attention(qkv.into_dispatch(), spec))
}

/// [`Ops::split_heads`].
#[must_use]
pub fn split_heads(qkv: Tensor<2>, spec: AttentionSpec) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let (q, k, v) = Dispatch::split_heads(qkv.into_dispatch(), spec);
    (Tensor::from_dispatch(q), Tensor::from_dispatch(k), Tensor::from_dispatch(v))
}

/// [`Ops::attend`] without the log-sum-exp.
#[must_use]
pub fn attend(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spec: AttentionSpec) -> Tensor<2> {
    flops::forward(spec.operations());
    Tensor::from_dispatch(Dispatch::attend(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), spec).0)
}

/// [`Ops::gated_activation`].
#[must_use]
pub fn gated_activation(gate_up: Tensor<2>, activation: Activation) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::gated_activation(gate_up.into_dispatch(), activation))
}

/// [`Ops::embed`].
#[must_use]
pub fn embed(weight: Tensor<2>, ids: Arc<Vec<u32>>, tie: Option<Tie>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::embed(weight.into_dispatch(), ids, tie))
}

/// [`Ops::cross_entropy`].
#[must_use]
pub fn cross_entropy(hidden: Tensor<2>, weight: Tensor<2>, spec: CrossEntropySpec, tie: Option<Tie>) -> Tensor<1> {
    flops::forward(head_operations(&weight, &spec.targets));
    Tensor::from_dispatch(Dispatch::cross_entropy(hidden.into_dispatch(), weight.into_dispatch(), spec, tie))
}

/// [`Ops::log_likelihoods`].
#[must_use]
pub fn log_likelihoods(hidden: Tensor<2>, weight: Tensor<2>, labels: Arc<Vec<Label>>) -> Tensor<1> {
    let [vocabulary, size] = weight.dims();
    flops::forward(flops::product(hidden.dims()[0], vocabulary, size));
    Tensor::from_dispatch(Dispatch::log_likelihoods(hidden.into_dispatch(), weight.into_dispatch(), labels))
}

/// The labels of rows with the tokens that should follow them, [`IGNORE`] where there is none.
#[must_use]
pub fn labels_of(targets: &[i64]) -> Vec<Label> {
    let label = |(row, &target)| Some(Label { row: u32::try_from(row).ok()?, token: u32::try_from(target).ok()? });
    targets.iter().enumerate().filter_map(label).collect()
}

/// Operations of the head's product, computed only for rows that have a target.
fn head_operations(weight: &Tensor<2>, targets: &[i64]) -> u64 {
    head_operations_of(weight.dims(), targets)
}

fn head_operations_of([vocabulary, hidden]: [usize; 2], targets: &[i64]) -> u64 {
    flops::product(targets.iter().filter(|&&t| t != IGNORE).count(), vocabulary, hidden)
}
