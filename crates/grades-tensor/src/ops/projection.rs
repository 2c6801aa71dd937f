//! Linear layers.

use std::ops::Range;

use crate::dtype::Dtype;
use crate::flops;
use crate::held::{Made, making};
use crate::spec::Activation;
use crate::tape::{Backward, Leaf, Node, Saved, Tape, Var};
use crate::tensor::Tensor;

/// `y = x · [W₁; W₂; …]ᵀ + b + residual`: x `[tokens, in]`, each W `[outᵢ, in]`, y `[tokens, Σ outᵢ]`.
///
/// `biases` is empty or one `[1, outᵢ]` a weight. With a residual, f32 `[tokens, Σ outᵢ]`, y is f32; else y has the dtype
/// of x.
#[must_use]
pub fn project(tape: &Tape, x: &Var, weights: &[Leaf], biases: &[Leaf], residual: Option<&Var>) -> Var {
    let _made = making(if residual.is_some() { Made::Stream } else { Made::Projections });
    let linear = Linear::of(tape, x, weights, biases);
    flops::forward(flops::product(x.value.rows(), linear.width, linear.total));
    let onto = residual.map(|residual| residual.value.clone());
    let y = x.value.device().project(&x.value, &values(weights), &values(biases), onto);
    let residual = residual.map(Var::node).unwrap_or_default();
    let tracked = linear.is_tracked() || residual.is_tracked();
    tape.record(y, tracked, move |dy, backward| {
        linear.backward(&dy, backward);
        backward.add(residual, dy);
    })
}

/// `y = activation(x · Wᵍᵀ) · (x · Wᵘᵀ)`: the two weights `[out, in]`, y `[tokens, out]`, in one operation.
#[must_use]
pub fn gated_project(tape: &Tape, x: &Var, weights: &[Leaf; 2], activation: Activation) -> Var {
    let _made = making(Made::Activations);
    let linear = Linear::of(tape, x, weights, &[]);
    flops::forward(flops::product(x.value.rows(), linear.width, linear.total));
    let (device, [gate, up]) = (x.value.device(), weights);
    let tracked = tape.is_recording() && linear.is_tracked();
    let (y, joined) = device.gated_project(&x.value, [&gate.value, &up.value], activation, tracked);
    let Some(joined) = joined else { return Var::constant(y) };
    let again = joined.clone();
    let y = tape.record(y, true, move |dy, backward| {
        let of_products = device.gated_activation_backward(&dy, &joined, activation);
        drop((joined, dy));
        linear.backward(&of_products, backward);
    });
    y.remade(move || device.gated_activation(&again, activation))
}

pub(super) fn values(leaves: &[Leaf]) -> Vec<&Tensor> {
    leaves.iter().map(|leaf| &leaf.value).collect()
}

/// Columns of y behind what trains, each range with the slot of its gradient.
pub(super) type TrackedColumns = Vec<(Range<usize>, usize)>;

/// What the backward pass of a linear layer needs.
struct Linear {
    x: Node,
    dtype: Dtype,
    width: usize,
    total: usize,
    /// The columns whose weights train, and x, which their gradients need.
    weight_gradients: Option<(Saved, TrackedColumns)>,
    /// The columns whose biases train.
    bias_gradients: TrackedColumns,
    /// The weights, for the gradient of x.
    weights: Vec<Tensor>,
}

impl Linear {
    fn of(tape: &Tape, x: &Var, weights: &[Leaf], biases: &[Leaf]) -> Self {
        let recording = tape.is_recording();
        let tracked = if recording { tracked_columns(weights, Tensor::rows) } else { Vec::new() };
        let keep = |leaf: &Leaf| leaf.value.clone();
        let input = x.is_tracked() && recording;
        Self {
            x: x.node(),
            dtype: x.value.dtype(),
            width: x.value.columns(),
            total: outputs(weights),
            weight_gradients: (!tracked.is_empty()).then(|| (x.saved(), tracked)),
            bias_gradients: if recording { tracked_columns(biases, Tensor::columns) } else { Vec::new() },
            weights: if input { weights.iter().map(keep).collect() } else { Vec::new() },
        }
    }

    fn is_tracked(&self) -> bool {
        self.x.is_tracked() || self.weight_gradients.is_some() || !self.bias_gradients.is_empty()
    }

    fn backward(self, dy: &Tensor, backward: &mut Backward<'_>) {
        // Behind a residual the gradient is f32, where x may be bf16.
        let (device, dy, tokens) = (dy.device(), dy.cast(self.dtype), dy.rows());
        if let Some((x, tracked)) = self.weight_gradients {
            let (ranges, slots): (Vec<_>, Vec<_>) = tracked.into_iter().unzip();
            let rows = ranges.iter().map(Range::len).sum();
            flops::weight_gradient(flops::product(rows, self.width, tokens));
            let gradients = device.project_weight_gradients(&dy, &x.value(), 0..self.width, &ranges);
            for (slot, gradient) in slots.into_iter().zip(gradients) {
                backward.parameters().add(slot, gradient);
            }
        }
        for (range, slot) in self.bias_gradients {
            backward.parameters().add(slot, device.column_sums(&dy, range));
        }
        if self.x.is_tracked() {
            flops::input_gradient(flops::product(tokens, self.width, self.total));
            let weights: Vec<&Tensor> = self.weights.iter().collect();
            // Added to what x has already, so that the gradients of an adapter and of its projection meet in the product.
            let onto = backward.take(self.x).map(|onto| onto.cast(self.dtype));
            let dx = device.project_input_gradient(&dy, &weights, onto);
            backward.add(self.x, dx);
        }
    }
}

fn outputs(weights: &[Leaf]) -> usize {
    weights.iter().map(|weight| weight.value.rows()).sum()
}

/// The columns of y behind what trains of its leaves, each of which stands for `width` columns.
pub(super) fn tracked_columns(leaves: &[Leaf], width: impl Fn(&Tensor) -> usize) -> TrackedColumns {
    let mut first = 0;
    let mut found = Vec::new();
    for leaf in leaves {
        let count = width(&leaf.value);
        // A matrix of one row is taken for a vector where it is marked as tracked, by its elements.
        let columns = |rows: &Range<usize>| first + rows.start..first + rows.end.min(count);
        found.extend(leaf.tracked.iter().map(|(rows, slot)| (columns(rows), *slot)));
        first += count;
    }
    found
}
