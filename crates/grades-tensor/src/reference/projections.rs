//! Linear layers.

use std::ops::Range;

use super::memory::{Reference, build, row, values};
use crate::device::{Layers, Projections};
use crate::dtype::Dtype;
use crate::spec::Activation;
use crate::tensor::Tensor;

/// Σ aᵢ · bᵢ.
pub(super) fn dot<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> f64 {
    a.into_iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The matrices below one another.
fn stacked(matrices: &[&Tensor]) -> Vec<Vec<f32>> {
    matrices.iter().flat_map(|matrix| (0..matrix.rows()).map(|i| row(matrix, i).to_vec())).collect()
}

impl Projections for Reference {
    fn project(&self, x: &Tensor, weights: &[&Tensor], biases: &[&Tensor], residual: Option<Tensor>) -> Tensor {
        let weights = stacked(weights);
        let bias: Vec<f32> = biases.iter().flat_map(|bias| values(bias)).copied().collect();
        let dtype = if residual.is_some() { Dtype::F32 } else { x.dtype() };
        build([x.rows(), weights.len()], dtype, |i, j| {
            let onto = residual.as_ref().map_or(0.0, |residual| row(residual, i)[j]);
            dot(row(x, i), &weights[j]) + f64::from(bias.get(j).copied().unwrap_or(0.0)) + f64::from(onto)
        })
    }

    fn project_input_gradient(&self, dy: &Tensor, weights: &[&Tensor], onto: Option<Tensor>) -> Tensor {
        let (width, weights) = (weights.first().map_or(0, |weight| weight.columns()), stacked(weights));
        build([dy.rows(), width], dy.dtype(), |i, j| {
            let onto = onto.as_ref().map_or(0.0, |onto| row(onto, i)[j]);
            dot(row(dy, i), weights.iter().map(|weight| &weight[j])) + f64::from(onto)
        })
    }

    fn project_weight_gradients(
        &self,
        dy: &Tensor,
        x: &Tensor,
        of: Range<usize>,
        columns: &[Range<usize>],
    ) -> Vec<Tensor> {
        let one = |range: &Range<usize>| {
            build([range.len(), of.len()], Dtype::F32, |i, j| {
                let all = 0..dy.rows();
                all.map(|t| f64::from(row(dy, t)[range.start + i]) * f64::from(row(x, t)[of.start + j])).sum()
            })
        };
        columns.iter().map(one).collect()
    }

    fn column_sums(&self, dy: &Tensor, columns: Range<usize>) -> Tensor {
        build([1, columns.len()], Dtype::F32, |_, j| {
            (0..dy.rows()).map(|i| f64::from(row(dy, i)[columns.start + j])).sum()
        })
    }

    fn gated_project(
        &self,
        x: &Tensor,
        [gate, up]: [&Tensor; 2],
        activation: Activation,
        keep: bool,
    ) -> (Tensor, Option<Tensor>) {
        let joined = self.project(x, &[gate, up], &[], None);
        (self.gated_activation(&joined, activation), keep.then_some(joined))
    }
}
