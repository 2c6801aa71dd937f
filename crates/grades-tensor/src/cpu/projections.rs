//! Linear layers: each weight is f32, or bf16 or blocks that the product itself decodes.

use std::ops::Range;

use grades_kernels::gemm::bf16::{Output, Rows};
use grades_kernels::gemm::{self, Matrix, MatrixMut};
use grades_kernels::quant::PackedMatrix;
use half::bf16;

use super::processor::Cpu;
use super::values::{Values, columns, columns_mut, matrix, slice, tensor, vector, with_numbers, zeros};
use crate::device::{Layers, Memory, Projections};
use crate::dtype::Dtype;
use crate::spec::Activation;
use crate::tensor::Tensor;

/// A weight `[out, in]`.
pub(super) enum Weight<'a> {
    Dense(Matrix<'a>),
    Half(Matrix<'a, bf16>),
    Packed(&'a PackedMatrix),
}

impl<'a> Weight<'a> {
    pub(super) fn of(tensor: &'a Tensor) -> Self {
        match tensor.storage() {
            Values::Packed(matrix) => Self::Packed(matrix),
            Values::Bf16(_) => Self::Half(matrix(tensor)),
            Values::F32(_) | Values::U8(_) => Self::Dense(matrix(tensor)),
        }
    }

    fn all(tensors: &[&'a Tensor]) -> Vec<Self> {
        tensors.iter().map(|tensor| Self::of(tensor)).collect()
    }

    /// As products read it.
    pub(super) fn rows(&self) -> &dyn Rows {
        match self {
            Self::Dense(matrix) => matrix,
            Self::Half(matrix) => matrix,
            Self::Packed(matrix) => *matrix,
        }
    }

    fn out(&self) -> usize {
        self.rows().rows()
    }
}

/// The columns of y of each weight.
fn outputs(weights: &[Weight<'_>]) -> Vec<Range<usize>> {
    let mut end = 0;
    let next = |weight: &Weight<'_>| {
        end += weight.out();
        end - weight.out()..end
    };
    weights.iter().map(next).collect()
}

/// Biases side by side.
pub(super) fn joined(biases: &[&Tensor]) -> Vec<f32> {
    biases.iter().flat_map(|bias| slice::<f32>(bias)).copied().collect()
}

impl Projections for Cpu {
    fn project(&self, x: &Tensor, weights: &[&Tensor], biases: &[&Tensor], residual: Option<Tensor>) -> Tensor {
        let (weights, bias) = (Weight::all(weights), joined(biases));
        let shape @ [tokens, total] = [x.rows(), weights.iter().map(Weight::out).sum()];
        if x.dtype() == Dtype::Bf16 {
            let rows: Vec<_> = weights.iter().map(Weight::rows).collect();
            return match residual {
                Some(onto) => tensor(gemm::bf16::nt_onto(matrix(x), &rows, &bias, slice(&onto)), shape),
                None => tensor(gemm::bf16::nt_new(matrix(x), &rows, &bias), shape),
            };
        }
        let accumulate = residual.is_some() || !bias.is_empty();
        let mut y = residual.unwrap_or_else(|| tensor::<f32>(zeros(tokens * total), shape));
        let values = vector::<f32>(&mut y, None);
        if !bias.is_empty() {
            values.chunks_exact_mut(total).for_each(|row| row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b));
        }
        for (weight, of) in weights.iter().zip(outputs(&weights)) {
            let part = columns_mut(values, shape, of.start, of.len());
            gemm::nt_rows(matrix(x), weight.rows(), part, accumulate);
        }
        y
    }

    fn project_input_gradient(&self, dy: &Tensor, weights: &[&Tensor], onto: Option<Tensor>) -> Tensor {
        let shape @ [tokens, width] = [dy.rows(), weights.first().map_or(0, |weight| weight.columns())];
        let weights = Weight::all(weights);
        if dy.dtype() == Dtype::Bf16 {
            let rows: Vec<_> = weights.iter().map(Weight::rows).collect();
            return match onto {
                Some(mut onto) => {
                    let dx = MatrixMut::new(vector(&mut onto, None), tokens, width);
                    gemm::bf16::nn(matrix(dy), &rows, Output::AddBf16(dx));
                    onto
                }
                None => tensor(gemm::bf16::nn_new(matrix(dy), &rows), shape),
            };
        }
        let mut dx = zeros(tokens * width);
        for (weight, of) in weights.iter().zip(outputs(&weights)) {
            let part = columns(dy, of.start, of.len());
            gemm::nn_rows(part, weight.rows(), MatrixMut::new(&mut dx, tokens, width), of.start > 0);
        }
        let dx = tensor(dx, shape);
        match onto {
            // Added when it is whole, so that the sum is the same as of two gradients that meet on the tape.
            Some(mut onto) => {
                self.add(&mut onto, &dx);
                onto
            }
            None => dx,
        }
    }

    fn project_weight_gradients(
        &self,
        dy: &Tensor,
        x: &Tensor,
        of: Range<usize>,
        ranges: &[Range<usize>],
    ) -> Vec<Tensor> {
        let width = of.len();
        let gradients: Vec<Vec<f32>> = if x.dtype() == Dtype::Bf16 {
            gemm::bf16::tn_new(matrix(dy), columns::<bf16>(x, of.start, width), ranges)
        } else {
            let one = |range: &Range<usize>| {
                let mut dw = zeros(range.len() * width);
                let c = MatrixMut::new(&mut dw, range.len(), width);
                gemm::tn(columns(dy, range.start, range.len()), columns(x, of.start, width), c, false);
                dw
            };
            ranges.iter().map(one).collect()
        };
        gradients.into_iter().zip(ranges).map(|(dw, range)| tensor(dw, [range.len(), width])).collect()
    }

    fn column_sums(&self, dy: &Tensor, of: Range<usize>) -> Tensor {
        let mut sums = vec![0.0_f32; of.len()];
        with_numbers!(dy, E => {
            for row in slice::<E>(dy).chunks_exact(dy.columns().max(1)) {
                let row = &row[of.clone()];
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += grades_kernels::Element::widen(*value));
            }
        });
        tensor(sums, [1, of.len()])
    }

    fn gated_project(
        &self,
        x: &Tensor,
        [gate, up]: [&Tensor; 2],
        activation: Activation,
        keep: bool,
    ) -> (Tensor, Option<Tensor>) {
        if x.dtype() == Dtype::F32 {
            let joined = self.project(x, &[gate, up], &[], None);
            return (self.gated_activation(&joined, activation), keep.then_some(joined));
        }
        let (tokens, out) = (x.rows(), gate.rows());
        let weights = [gate, up].map(Weight::of);
        let (y, joined) = gemm::bf16::gated_new(matrix(x), weights.each_ref().map(Weight::rows), activation, keep);
        (tensor(y, [tokens, out]), keep.then(|| tensor(joined, [tokens, 2 * out])))
    }
}
