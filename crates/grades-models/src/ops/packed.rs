//! Projections through weights that stay packed: 4-bit or 8-bit blocks, which the product itself decodes.
//!
//! Such a weight never trains: there is no weight gradient, and no activation is kept for one. The CPU backend decodes
//! while it packs the operands of a product, or a block of rows at a time; the default bodies, for other backends,
//! decode each weight whole for the time of its product.

use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops as Step, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{Device, FloatTensor};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use grades_kernels::gemm::bf16::Rows;
use grades_kernels::quant::{self, PackedMatrix};

use super::flex::{self, Values};
use super::{Beside, Ops, Precision, Tensors, Tie, flops, stock, tensors};

/// Most weights of one operation (q, k, v).
const PARTS: usize = 3;
/// Parents: x, each bias, the residual.
const PARENTS: usize = 2 + PARTS;

/// Packed weights `[outᵢ, in]` that share their input.
#[derive(Clone, Debug)]
pub struct PackedWeights(pub Vec<Arc<PackedMatrix>>);

impl PackedWeights {
    /// Rows of all of them.
    fn rows(&self) -> usize {
        self.0.iter().map(|weight| weight.rows()).sum()
    }

    fn as_rows(&self) -> Vec<&dyn Rows> {
        self.0.iter().map(|weight| weight.as_ref() as &dyn Rows).collect()
    }

    /// The same weights, dense.
    pub(super) fn decoded<B: Backend>(&self, device: &Device<B>) -> Tensors<B> {
        let decoded = |weight: &Arc<PackedMatrix>| {
            let shape = [weight.rows(), weight.columns()];
            let mut values = vec![0.0; shape.iter().product()];
            weight.decode(&mut values);
            stock::floats::<B>(values, shape, device)
        };
        Tensors(self.0.iter().map(decoded).collect())
    }
}

/// The products with packed weights.
#[backend_extension(Flex, Autodiff)]
pub trait PackedOps: Ops {
    /// [`Ops::project_beside`] through packed weights.
    fn project_packed(
        x: FloatTensor<Self>,
        weights: PackedWeights,
        #[extension_type] biases: Tensors<Self>,
        #[extension_type] residual: Tensors<Self>,
        tie: Option<Tie>,
    ) -> FloatTensor<Self> {
        let _ = tie;
        let weights = weights.decoded::<Self>(&x.device());
        Self::project(x, weights, biases, residual)
    }

    /// [`Ops::project_input_gradient`] through packed weights.
    fn project_packed_input_gradient(dy: FloatTensor<Self>, weights: PackedWeights) -> FloatTensor<Self> {
        let weights = weights.decoded::<Self>(&dy.device());
        Self::project_input_gradient(dy, weights)
    }

    /// [`Ops::project_input_gradient_onto`] through packed weights.
    fn project_packed_input_gradient_onto(
        dy: FloatTensor<Self>,
        weights: PackedWeights,
        onto: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_add(onto, Self::project_packed_input_gradient(dy, weights))
    }
}

impl PackedOps for Flex {
    fn project_packed(
        x: FlexTensor,
        weights: PackedWeights,
        biases: Tensors<Self>,
        residual: Tensors<Self>,
        _: Option<Tie>,
    ) -> FlexTensor {
        let (x, bias, residual) = (Values::of(x), flex::joined(biases), flex::one(residual));
        match x.precision() {
            Precision::F32 => {
                let outs: Vec<usize> = weights.0.iter().map(|weight| weight.rows()).collect();
                flex::project_f32(x.dims()[0], &outs, &bias, residual, |index, y, accumulate| {
                    quant::nt(x.matrix(), &weights.0[index], y, accumulate);
                })
            }
            Precision::Bf16 => flex::project_bf16(&x, &weights.as_rows(), &bias, residual),
        }
    }

    fn project_packed_input_gradient(dy: FlexTensor, weights: PackedWeights) -> FlexTensor {
        let dy = Values::of(dy);
        match dy.precision() {
            Precision::F32 => {
                let shapes: Vec<_> = weights.0.iter().map(|weight| [weight.rows(), weight.columns()]).collect();
                flex::input_gradient_f32(&dy, &shapes, |index, dy, dx, accumulate| {
                    quant::nn(dy, &weights.0[index], dx, accumulate);
                })
            }
            Precision::Bf16 => flex::input_gradient_bf16(&dy, &weights.as_rows()),
        }
    }

    fn project_packed_input_gradient_onto(dy: FlexTensor, weights: PackedWeights, onto: FlexTensor) -> FlexTensor {
        match Precision::of(dy.dtype()) {
            Precision::F32 => Self::float_add(onto, Self::project_packed_input_gradient(dy, weights)),
            Precision::Bf16 => flex::input_gradient_onto_bf16(&Values::of(dy), &weights.as_rows(), onto),
        }
    }
}

#[derive(Debug)]
struct PackedBackward;

#[derive(Clone, Debug)]
struct PackedState {
    weights: PackedWeights,
    /// The numbers of x, in which its gradient is computed too.
    precision: Precision,
    tie: Option<Tie>,
}

impl<B: PackedOps> Backward<B, PARENTS> for PackedBackward {
    type State = PackedState;

    fn backward(self, step: Step<Self::State, PARENTS>, grads: &mut Gradients, _: &mut Checkpointer) {
        let PackedState { weights, precision, tie } = step.state;
        let of_output = grads.consume::<B>(&step.node);
        let (onto, dy) = match tie.and_then(|tie| tie.take()) {
            Some(Beside::<B> { dx, dy }) => (Some(dx), dy),
            // Behind a residual the gradient is f32.
            None => (None, B::in_precision(of_output.clone(), precision)),
        };
        let [input, biases @ .., residual] = step.parents;
        let mut first = 0;
        for (weight, bias) in weights.0.iter().zip(biases) {
            if let Some(node) = bias {
                grads.register::<B>(node.id, stock::column_sums::<B>(dy.clone(), first, weight.rows()));
            }
            first += weight.rows();
        }
        if let Some(node) = input {
            let (tokens, width) = (dy.shape().dims::<2>()[0], weights.0.first().map_or(0, |w| w.columns()));
            flops::input_gradient(flops::product(tokens, width, first));
            let dx = match onto {
                Some(onto) => B::project_packed_input_gradient_onto(dy, weights, onto),
                None => B::project_packed_input_gradient(dy, weights),
            };
            grads.register::<B>(node.id, dx);
        }
        if let Some(node) = residual {
            grads.register::<B>(node.id, of_output);
        }
    }
}

impl<B: PackedOps, C: CheckpointStrategy> PackedOps for Autodiff<B, C> {
    fn project_packed(
        x: FloatTensor<Self>,
        weights: PackedWeights,
        biases: Tensors<Self>,
        residual: Tensors<Self>,
        tie: Option<Tie>,
    ) -> FloatTensor<Self> {
        // Slots without a tensor hold an untracked node, which the graph ignores.
        let unused = Self::float_set_require_grad(x.clone(), false);
        let nodes: [NodeGuard; PARENTS] = std::array::from_fn(|slot| match slot {
            0 => x.node(),
            slot if slot <= PARTS => biases.0.get(slot - 1).unwrap_or(&unused).node(),
            _ => residual.0.first().unwrap_or(&unused).node(),
        });
        drop(unused);
        let inner = |list: Tensors<Self>| Tensors(list.0.into_iter().map(|t| t.into_primitive()).collect());
        let (x, biases, residual) = (x.into_primitive(), inner(biases), inner(residual));
        match PackedBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let state = PackedState { weights: weights.clone(), precision: Precision::of(x.dtype()), tie };
                prepared.finish(state, B::project_packed(x, weights, biases, residual, None))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::project_packed(x, weights, biases, residual, None)),
        }
    }
}

/// [`PackedOps::project_packed`].
#[must_use]
pub fn project_packed(
    x: Tensor<2>,
    weights: PackedWeights,
    biases: Vec<Tensor<2>>,
    residual: Option<Tensor<2>>,
    tie: Option<Tie>,
) -> Tensor<2> {
    let [tokens, width] = x.dims();
    flops::forward(flops::product(tokens, weights.rows(), width));
    Tensor::from_dispatch(Dispatch::project_packed(
        x.into_dispatch(),
        weights,
        tensors(biases),
        tensors(residual.into_iter().collect()),
        tie,
    ))
}
