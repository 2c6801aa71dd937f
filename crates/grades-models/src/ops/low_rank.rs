//! Low-rank adapters (LoRA, Hu et al. 2021) beside a linear layer: `y += s · (x · Aᵀ) · Bᵀ` by the two small products.
//!
//! Neither `B · A` nor a gradient of its shape is ever formed. Layers that share their input (q, k, v; gate, up) are one
//! operation, so that `x · [A₁; A₂; …]ᵀ` is one product. The base's product stays [`Ops::project`]: it keeps no
//! activation for an untracked weight, and this operation works on any base.

use std::ops::Range;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops as Step, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use grades_kernels::gemm::bf16::{Output, Rows};
use grades_kernels::gemm::{self, Matrix, MatrixMut};
use grades_kernels::optimizer;
use half::bf16;

use super::flex::{Number, Values, columns, tensor, zeros};
use super::{Beside, Ops, Precision, Tensors, Tie, flops, stock, tensors};

/// Most adapters of one operation (q, k, v).
const PARTS: usize = 3;
/// Parents: y, x, each A, each B.
const PARENTS: usize = 2 + 2 * PARTS;

/// Where adapters act and how strongly.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// The first column of y of each adapter's output, in the order of the adapters.
    pub firsts: Vec<usize>,
    /// s: α / r, or α / √r when rank-stabilised.
    pub scale: f32,
    /// Shared with the [`Ops::project_beside`] that gave y and takes the same x, where there is one.
    pub tie: Option<Tie>,
}

fn size<B: Backend>(tensor: &FloatTensor<B>) -> [usize; 2] {
    tensor.shape().dims::<2>()
}

/// The products of low-rank adapters.
#[backend_extension(Flex, Autodiff)]
pub trait LowRankOps: Ops {
    /// `y[:, columns of i] += s · (x · Aᵢᵀ) · Bᵢᵀ`: y `[tokens, out]`, x `[tokens, in]`, each A `[r, in]`, each B
    /// `[outᵢ, r]`.
    fn add_low_rank(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        #[extension_type] a: Tensors<Self>,
        #[extension_type] b: Tensors<Self>,
        spec: LowRank,
    ) -> FloatTensor<Self> {
        let scaled = Self::scaled_input(x, a, spec.scale);
        Self::add_expanded(y, scaled, b, spec)
    }

    /// The second product: `y[:, columns of i] += uᵢ · Bᵢᵀ` for u `[tokens, Σ r]`, which holds s already.
    fn add_expanded(
        y: FloatTensor<Self>,
        u: FloatTensor<Self>,
        #[extension_type] b: Tensors<Self>,
        spec: LowRank,
    ) -> FloatTensor<Self> {
        stock::add_expanded::<Self>(y, u, b, &spec)
    }

    /// The first product: `s · x · [A₁; A₂; …]ᵀ`, `[tokens, Σ r]`, in the numbers of x.
    fn scaled_input(x: FloatTensor<Self>, #[extension_type] a: Tensors<Self>, scale: f32) -> FloatTensor<Self> {
        let u = Self::project(x, a, Tensors(Vec::new()), Tensors(Vec::new()));
        Self::float_mul_scalar(u, scale.into())
    }

    /// The gradient of [`add_expanded`](LowRankOps::add_expanded) in u, s times: `s · [dy[:, columns of i] · Bᵢ]`,
    /// `[tokens, Σ r]`.
    fn expanded_gradient(
        dy: FloatTensor<Self>,
        #[extension_type] b: Tensors<Self>,
        spec: LowRank,
    ) -> FloatTensor<Self> {
        stock::expanded_gradient::<Self>(dy, b, &spec)
    }
}

impl LowRankOps for Flex {
    fn add_expanded(y: FlexTensor, u: FlexTensor, b: Tensors<Self>, spec: LowRank) -> FlexTensor {
        let (u, y) = (Values::of(u), Values::of(y));
        let b: Vec<_> = b.0.into_iter().map(Values::of).collect();
        let dims = y.dims();
        // Behind a residual y is f32 whatever u is; else both have the numbers of x.
        if y.precision() == Precision::Bf16 {
            let mut y = y.into_vec::<bf16>();
            for (b, first, rank) in places(&b, &spec) {
                let part = Output::AddBf16(part(&mut y, dims, first, b.rows()));
                gemm::bf16::nt(columns(u.slice(), u.dims(), rank, b.columns()), &[&b], &[], part);
            }
            return tensor(y, dims);
        }
        let mut y = y.into_vec::<f32>();
        for (b, first, rank) in places(&b, &spec) {
            let part = part(&mut y, dims, first, b.rows());
            match u.precision() {
                Precision::F32 => gemm::nt(columns(u.slice(), u.dims(), rank, b.columns()), b, part, true),
                Precision::Bf16 => {
                    let u = columns(u.slice(), u.dims(), rank, b.columns());
                    gemm::bf16::nt(u, &[&b], &[], Output::AddF32(part));
                }
            }
        }
        tensor(y, dims)
    }

    fn scaled_input(x: FlexTensor, a: Tensors<Self>, scale: f32) -> FlexTensor {
        let x = Values::of(x);
        let a: Vec<_> = a.0.into_iter().map(Values::of).collect();
        let dims @ [tokens, ranks] = [x.dims()[0], a.iter().map(|a| a.dims()[0]).sum()];
        match x.precision() {
            Precision::F32 => {
                let (mut u, mut rank) = (zeros(tokens * ranks), 0);
                for a in &a {
                    let part = part(&mut u, dims, rank, a.dims()[0]);
                    gemm::nt(x.matrix(), a.matrix(), part, false);
                    rank += a.dims()[0];
                }
                optimizer::scale(scale, &mut u);
                tensor(u, dims)
            }
            Precision::Bf16 => {
                let a: Vec<_> = a.iter().map(|a| Scaled { rows: a.matrix(), factor: scale }).collect();
                let a: Vec<_> = a.iter().map(|a| a as &dyn Rows).collect();
                tensor(gemm::bf16::nt_new(x.matrix(), &a, &[]), dims)
            }
        }
    }

    fn expanded_gradient(dy: FlexTensor, b: Tensors<Self>, spec: LowRank) -> FlexTensor {
        let (dy, b) = (Values::of(dy), b.0.into_iter().map(Values::of).collect::<Vec<_>>());
        let dims = [dy.dims()[0], b.iter().map(|b| b.dims()[1]).sum()];
        match dy.precision() {
            Precision::F32 => {
                let mut du = zeros(dims[0] * dims[1]);
                for (b, first, rank) in places(&b, &spec) {
                    let part = part(&mut du, dims, rank, b.columns());
                    gemm::nn(columns(dy.slice(), dy.dims(), first, b.rows()), b, part, false);
                }
                optimizer::scale(spec.scale, &mut du);
                tensor(du, dims)
            }
            Precision::Bf16 => {
                let mut du = zeros(dims[0] * dims[1]);
                for (b, first, rank) in places(&b, &spec) {
                    let part = Output::Bf16(part(&mut du, dims, rank, b.columns()));
                    let b = Scaled { rows: b, factor: spec.scale };
                    gemm::bf16::nn(columns(dy.slice(), dy.dims(), first, b.rows.rows()), &[&b], part);
                }
                tensor(du, dims)
            }
        }
    }
}

/// Each B with the first of its columns of y and the first of its columns of u.
fn places<'a>(b: &'a [Values], spec: &'a LowRank) -> impl Iterator<Item = (Matrix<'a>, usize, usize)> {
    let ranks = b.iter().scan(0, |end, b| {
        *end += b.dims()[1];
        Some(*end - b.dims()[1])
    });
    b.iter().zip(&spec.firsts).zip(ranks).map(|((b, &first), rank)| (b.matrix(), first, rank))
}

/// Columns `first..` of `[rows, total]` values to write into.
fn part<E: Number>(values: &mut [E], [rows, total]: [usize; 2], first: usize, count: usize) -> MatrixMut<'_, E> {
    MatrixMut::with_stride(&mut values[if rows == 0 { 0 } else { first }..], rows, count, total)
}

/// The rows of a matrix, `factor` times, made while a product packs them.
struct Scaled<'a> {
    rows: Matrix<'a>,
    factor: f32,
}

impl Rows for Scaled<'_> {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn columns(&self) -> usize {
        self.rows.columns()
    }

    fn row<'s>(&'s self, row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32] {
        for (scaled, value) in scratch.iter_mut().zip(&self.rows.row(row)[columns]) {
            *scaled = self.factor * value;
        }
        scratch
    }
}

#[derive(Debug)]
struct LowRankBackward;

#[derive(Clone, Debug)]
struct LowRankState<B: Backend> {
    /// Kept for a tracked A.
    x: Option<FloatTensor<B>>,
    /// s · x · Aᵀ, kept for a tracked B.
    u: Option<FloatTensor<B>>,
    a: Tensors<B>,
    b: Tensors<B>,
    spec: LowRank,
    /// The numbers of x.
    precision: Precision,
}

impl<B: LowRankOps> Backward<B, PARENTS> for LowRankBackward {
    type State = LowRankState<B>;

    fn backward(self, step: Step<Self::State, PARENTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let LowRankState { x, u, a, b, spec, precision } = step.state;
        let of_output = grads.consume::<B>(&step.node);
        let dy = B::in_precision(of_output.clone(), precision);
        let [tokens, _] = size::<B>(&dy);
        let [base, input, rest @ ..] = step.parents;
        let mut rest = rest.into_iter();
        let a_nodes: Vec<_> = rest.by_ref().take(PARTS).collect();
        let b_nodes: Vec<_> = rest.collect();
        let mut rank = 0;
        for ((b, first), node) in b.0.iter().zip(&spec.firsts).zip(b_nodes) {
            let [out, r] = size::<B>(b);
            if let (Some(node), Some(u)) = (node, &u) {
                flops::weight_gradient(flops::product(out, r, tokens));
                let u = stock::columns::<B>(u.clone(), rank, r);
                let columns = *first..*first + out;
                let of_b = B::project_weight_gradients(dy.clone(), u, vec![columns]);
                of_b.0.into_iter().for_each(|gradient| grads.register::<B>(node.id, gradient));
            }
            rank += r;
        }
        if input.is_some() || x.is_some() {
            for b in &b.0 {
                let [out, r] = size::<B>(b);
                flops::input_gradient(flops::product(tokens, r, out));
            }
            let tie = spec.tie.clone();
            let du = B::expanded_gradient(dy.clone(), b, spec);
            let width = a.0.first().map_or(0, |a| size::<B>(a)[1]);
            let ranks: Vec<usize> = a.0.iter().map(|a| size::<B>(a)[0]).collect();
            let rank = ranks.iter().sum();
            // One product for all: its cost is the reading of x.
            let of_a = x.filter(|_| a_nodes.iter().any(Option::is_some));
            let all = 0..rank;
            let of_a = of_a.and_then(|x| B::project_weight_gradients(du.clone(), x, vec![all]).0.pop());
            let mut first = 0;
            for (&r, node) in ranks.iter().zip(a_nodes) {
                if let (Some(node), Some(of_a)) = (node, &of_a) {
                    flops::weight_gradient(flops::product(r, width, tokens));
                    grads.register::<B>(node.id, stock::rows::<B>(of_a.clone(), first, r));
                }
                first += r;
            }
            if let Some(node) = input {
                flops::input_gradient(flops::product(tokens, width, rank));
                let dx = B::project_input_gradient(du, a);
                match tie {
                    Some(tie) => tie.put(Beside::<B> { dx, dy }),
                    None => grads.register::<B>(node.id, dx),
                }
            }
        }
        if let Some(node) = base {
            grads.register::<B>(node.id, of_output);
        }
    }
}

impl<B: LowRankOps, C: CheckpointStrategy> LowRankOps for Autodiff<B, C> {
    fn add_low_rank(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: Tensors<Self>,
        b: Tensors<Self>,
        spec: LowRank,
    ) -> FloatTensor<Self> {
        let any = |list: &Tensors<Self>| list.0.iter().any(|tensor| tensor.is_tracked());
        let (any_a, any_b) = (any(&a), any(&b));
        // Slots without a tensor hold an untracked node, which the graph ignores.
        let unused = Self::float_set_require_grad(x.clone(), false);
        let nodes: [NodeGuard; PARENTS] = std::array::from_fn(|slot| match slot {
            0 => y.node(),
            1 => x.node(),
            slot if slot < 2 + PARTS => a.0.get(slot - 2).unwrap_or(&unused).node(),
            slot => b.0.get(slot - 2 - PARTS).unwrap_or(&unused).node(),
        });
        drop(unused);
        let inner = |list: Tensors<Self>| Tensors(list.0.into_iter().map(|t| t.into_primitive()).collect());
        let (y, x, a, b) = (y.into_primitive(), x.into_primitive(), inner(a), inner(b));
        match LowRankBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let u = B::scaled_input(x.clone(), a.clone(), spec.scale);
                let state = LowRankState {
                    precision: Precision::of(x.dtype()),
                    x: any_a.then_some(x),
                    u: any_b.then(|| u.clone()),
                    a,
                    b: b.clone(),
                    spec: spec.clone(),
                };
                prepared.finish(state, B::add_expanded(y, u, b, spec))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::add_low_rank(y, x, a, b, spec)),
        }
    }
}

/// [`LowRankOps::add_low_rank`].
#[must_use]
pub fn add_low_rank(y: Tensor<2>, x: Tensor<2>, a: Vec<Tensor<2>>, b: Vec<Tensor<2>>, spec: LowRank) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let first = |a: &Tensor<2>| flops::product(tokens, a.dims()[0], width);
    let second = |b: &Tensor<2>| flops::product(tokens, b.dims()[0], b.dims()[1]);
    flops::forward(a.iter().map(first).sum::<u64>() + b.iter().map(second).sum::<u64>());
    Tensor::from_dispatch(Dispatch::add_low_rank(y.into_dispatch(), x.into_dispatch(), tensors(a), tensors(b), spec))
}
