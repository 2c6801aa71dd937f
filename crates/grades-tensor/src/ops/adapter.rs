//! Low-rank adapters beside a linear layer (LoRA, Hu et al. 2021): `y += s · (x · Aᵀ) · Bᵀ` by the two small products.
//!
//! Layers that share their input (q, k, v; gate, up) are one operation, so that `x · [A₁; A₂; …]ᵀ` is one product. The
//! base's product stays [`project`](super::project): it keeps no activation for a weight that does not train.

use super::projection::{tracked_columns, values};
use crate::device::Gain;
use crate::flops;
use crate::held::{Made, making};
use crate::tape::{Backward, Leaf, Tape, Var};
use crate::tensor::Tensor;

/// The adapters of one linear layer.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// Each A `[rᵢ, in]`.
    pub a: Vec<Leaf>,
    /// Each B `[outᵢ, rᵢ]`.
    pub b: Vec<Leaf>,
    /// The first column of y of each adapter's output.
    pub firsts: Vec<usize>,
    /// The scaling factor s: α / r, or α / √r when rank-stabilised.
    pub scaling: f32,
}

impl LowRank {
    /// Operations of the first product, a token: `2 · Σ r · in`.
    fn reducing(&self) -> u64 {
        self.a.iter().map(|a| flops::product(1, a.value.rows(), a.value.columns())).sum()
    }

    /// Operations of the second product, a token.
    fn expanding(&self) -> u64 {
        self.b.iter().map(|b| flops::product(1, b.value.rows(), b.value.columns())).sum()
    }
}

/// `y[:, columns of i] += s · (x · Aᵢᵀ) · Bᵢᵀ`: y `[tokens, out]`, x `[tokens, in]`.
#[must_use]
pub fn add_low_rank(tape: &Tape, y: Var, x: &Var, adapters: LowRank) -> Var {
    let _made = making(Made::Adapters);
    let (device, tokens) = (x.value.device(), x.value.rows() as u64);
    flops::forward(tokens * (adapters.reducing() + adapters.expanding()));
    let u = device.reduce(&x.value, &values(&adapters.a), adapters.scaling);
    let (base, input, dtype) = (y.node(), x.node(), x.value.dtype());
    let value = device.expand(y.value, &u, &values(&adapters.b), &adapters.firsts);
    let any = |leaves: &[Leaf]| tape.is_recording() && leaves.iter().any(Leaf::is_tracked);
    let (any_a, any_b) = (any(&adapters.a), any(&adapters.b));
    let (kept_x, kept_u) = (any_a.then(|| x.saved()), any_b.then_some(u));
    let tracked = base.is_tracked() || input.is_tracked() || any_a || any_b;
    tape.record(value, tracked, move |of_output, backward| {
        let dy = of_output.cast(dtype);
        let mut rank = 0;
        for (b, &first) in adapters.b.iter().zip(&adapters.firsts) {
            let [out, r] = b.value.shape();
            if let (Some(slot), Some(u)) = (b.slot(), &kept_u) {
                flops::weight_gradient(flops::product(out, r, tokens as usize));
                let columns = first..first + out;
                let of_b = device.project_weight_gradients(&dy, u, rank..rank + r, std::slice::from_ref(&columns));
                of_b.into_iter().for_each(|gradient| backward.parameters().add(slot, gradient));
            }
            rank += r;
        }
        if input.is_tracked() || kept_x.is_some() {
            flops::input_gradient(tokens * adapters.expanding());
            let b = values(&adapters.b);
            let du = device.expand_input_gradient(&dy, &b, &adapters.firsts, adapters.scaling);
            if let Some(x) = kept_x {
                gradients_of_a(&adapters.a, &du, &x.value(), rank, backward);
            }
            if input.is_tracked() {
                flops::input_gradient(tokens * adapters.reducing());
                let dx = device.project_input_gradient(&du, &values(&adapters.a), None);
                backward.add(input, dx);
            }
        }
        backward.add(base, of_output);
    })
}

/// The gradients of every A that trains, by one product for all: its cost is the reading of x.
fn gradients_of_a(a: &[Leaf], du: &Tensor, x: &Tensor, rank: usize, backward: &mut Backward<'_>) {
    let (device, width, all) = (x.device(), x.columns(), 0..rank);
    let of_a = device.project_weight_gradients(du, x, 0..width, std::slice::from_ref(&all));
    let mut first = 0;
    for a in a {
        let r = a.value.rows();
        if let (Some(slot), Some(of_a)) = (a.slot(), of_a.first()) {
            flops::weight_gradient(flops::product(r, width, x.rows()));
            backward.parameters().add(slot, device.part(of_a, first * width, [r, width]));
        }
        first += r;
    }
}

/// The norm of each row of `W + s · B · A`, `[1, out]`: W `[out, in]` with the squared norms of its rows, A `[r, in]`, B
/// `[out, r]`. Without a record: DoRA counts it as constant.
#[must_use]
pub fn adapted_row_norms(weight: &Tensor, squares: &Tensor, a: &Tensor, b: &Tensor, scaling: f32) -> Tensor {
    let _made = making(Made::Adapters);
    let [rank, width] = a.shape();
    flops::forward(flops::product(rank, weight.rows() + rank, width));
    weight.device().adapted_row_norms(weight, squares, a, b, scaling)
}

/// What DoRA does to some columns of a linear layer's output.
#[derive(Clone, Debug)]
pub enum Scale {
    /// The rows of their weight get the lengths that the magnitude `[1, out]` says; they have those of the norms `[1,
    /// out]`, which count as constant.
    Adapted {
        /// The magnitude.
        magnitude: Leaf,
        /// The norms.
        norms: Tensor,
    },
    /// So many columns stay as they are.
    Plain(usize),
}

impl Scale {
    fn gain(&self) -> Gain<'_> {
        match self {
            Self::Adapted { magnitude, norms } => Gain::Adapted { magnitude: &magnitude.value, norms },
            Self::Plain(columns) => Gain::Plain(*columns),
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::Adapted { norms, .. } => norms.columns(),
            Self::Plain(columns) => *columns,
        }
    }
}

/// `y · gains + b + residual` with one gain a column, by which DoRA (Liu et al. 2024) gives the rows of an adapted weight
/// their lengths. With a residual the result is f32, else of the dtype of y.
#[must_use]
pub fn rescale(tape: &Tape, y: Var, scales: Vec<Scale>, biases: &[Leaf], residual: Option<&Var>) -> Var {
    let _made = making(Made::Adapters);
    let device = y.value.device();
    let gains = device.gains(&scales.iter().map(Scale::gain).collect::<Vec<_>>());
    let onto = residual.map(|residual| residual.value.clone());
    let value = device.rescale(&y.value, &gains, &values(biases), onto);
    let of_magnitudes: Vec<_> = with_firsts(scales, Scale::columns)
        .filter_map(|(first, scale)| match scale {
            Scale::Adapted { magnitude, norms } => Some((first, magnitude.slot()?, norms)),
            Scale::Plain(_) => None,
        })
        .collect();
    let of_biases = tracked_columns(biases, Tensor::columns);
    let (base, residual) = (y.node(), residual.map(Var::node).unwrap_or_default());
    let parameters = !of_magnitudes.is_empty() || !of_biases.is_empty();
    let tracked = base.is_tracked() || residual.is_tracked() || parameters;
    let y = y.value;
    tape.record(value, tracked, move |dy, backward| {
        for (columns, slot) in of_biases {
            backward.parameters().add(slot, device.column_sums(&dy, columns));
        }
        let (dx, dgains) = device.rescale_backward(&dy, &y, &gains);
        for (first, slot, norms) in of_magnitudes {
            backward.parameters().add(slot, device.gains_backward(&dgains, first, &norms));
        }
        backward.add(base, dx);
        backward.add(residual, dy);
    })
}

/// Each part with the first of its columns.
fn with_firsts<T>(parts: Vec<T>, columns: impl Fn(&T) -> usize) -> impl Iterator<Item = (usize, T)> {
    let mut end = 0;
    parts.into_iter().map(move |part| {
        let first = end;
        end += columns(&part);
        (first, part)
    })
}
