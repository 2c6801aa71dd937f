//! Low-rank adapters: neither `B · A` nor a gradient of its shape is ever formed in a step.

use std::ops::Range;

use grades_kernels::elementwise;
use grades_kernels::gemm::bf16::{Output, Rows};
use grades_kernels::gemm::{self, Matrix};
use half::bf16;

use super::processor::Cpu;
use super::projections::joined;
use super::values::{Number, columns, columns_mut, matrix, slice, tensor, vector, with_numbers, zeros};
use crate::device::{Adapters, Gain, Memory, Projections};
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// Each B with the first of its columns of y and the first of its columns of u.
fn places<'a>(b: &[&'a Tensor], firsts: &'a [usize]) -> impl Iterator<Item = (Matrix<'a>, usize, usize)> {
    let mut rank = 0;
    let with_rank = |(b, &first): (&&'a Tensor, &usize)| {
        rank += b.columns();
        (matrix(b), first, rank - b.columns())
    };
    b.iter().zip(firsts).map(with_rank).collect::<Vec<_>>().into_iter()
}

/// The rows of a matrix, `factor` times, made while a product packs them.
#[derive(Debug)]
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

impl Adapters for Cpu {
    fn reduce(&self, x: &Tensor, a: &[&Tensor], scaling: f32) -> Tensor {
        let shape @ [tokens, ranks] = [x.rows(), a.iter().map(|a| a.rows()).sum()];
        if x.dtype() == Dtype::Bf16 {
            let a: Vec<_> = a.iter().map(|a| Scaled { rows: matrix(a), factor: scaling }).collect();
            let a: Vec<_> = a.iter().map(|a| a as &dyn Rows).collect();
            return tensor(gemm::bf16::nt_new(matrix(x), &a, &[]), shape);
        }
        let (mut u, mut rank) = (zeros(tokens * ranks), 0);
        for a in a {
            gemm::nt(matrix(x), matrix(a), columns_mut(&mut u, shape, rank, a.rows()), false);
            rank += a.rows();
        }
        elementwise::scale(scaling, &mut u);
        tensor(u, shape)
    }

    fn expand(&self, mut y: Tensor, u: &Tensor, b: &[&Tensor], firsts: &[usize]) -> Tensor {
        let shape = y.shape();
        // Behind a residual y is f32 whatever u is; else both have one dtype.
        if y.dtype() == Dtype::Bf16 {
            let values = vector::<bf16>(&mut y, None);
            for (b, first, rank) in places(b, firsts) {
                let part = Output::AddBf16(columns_mut(values, shape, first, b.rows()));
                gemm::bf16::nt(columns(u, rank, b.columns()), &[&b], &[], part);
            }
            return y;
        }
        let values = vector::<f32>(&mut y, None);
        for (b, first, rank) in places(b, firsts) {
            let part = columns_mut(values, shape, first, b.rows());
            match u.dtype() {
                Dtype::Bf16 => gemm::bf16::nt(columns(u, rank, b.columns()), &[&b], &[], Output::AddF32(part)),
                Dtype::F32 | Dtype::U8 | Dtype::Packed => gemm::nt(columns(u, rank, b.columns()), b, part, true),
            }
        }
        y
    }

    fn expand_input_gradient(&self, dy: &Tensor, b: &[&Tensor], firsts: &[usize], scaling: f32) -> Tensor {
        let shape = [dy.rows(), b.iter().map(|b| b.columns()).sum()];
        let count = shape[0] * shape[1];
        if dy.dtype() == Dtype::Bf16 {
            let mut du = zeros::<bf16>(count);
            for (b, first, rank) in places(b, firsts) {
                let part = Output::Bf16(columns_mut(&mut du, shape, rank, b.columns()));
                let b = Scaled { rows: b, factor: scaling };
                gemm::bf16::nn(columns(dy, first, b.rows()), &[&b], part);
            }
            return tensor(du, shape);
        }
        let mut du = zeros::<f32>(count);
        for (b, first, rank) in places(b, firsts) {
            let part = columns_mut(&mut du, shape, rank, b.columns());
            gemm::nn(columns(dy, first, b.rows()), b, part, false);
        }
        elementwise::scale(scaling, &mut du);
        tensor(du, shape)
    }

    /// `‖W‖² + 2s · Σ (B · A) ⊙ W + s² · Σ (B · A) ⊙ (B · A)` along the rows, by products with A alone.
    fn adapted_row_norms(&self, weight: &Tensor, squares: &Tensor, a: &Tensor, b: &Tensor, scaling: f32) -> Tensor {
        let (out, rank) = (b.rows(), b.columns());
        // [rank, out] and [rank, rank].
        let (crossed, gram) = (self.project(a, &[weight], &[], None), self.project(a, &[a], &[], None));
        let (crossed, gram) = (slice::<f32>(&crossed), slice::<f32>(&gram));
        let b = slice::<f32>(b);
        let norm = |(row, square): (usize, &f32)| {
            let b = &b[row * rank..][..rank];
            let crossed: f32 = b.iter().enumerate().map(|(i, b)| b * crossed[i * out + row]).sum();
            let of_product = |(i, value): (usize, &f32)| {
                let row: f32 = gram[i * rank..][..rank].iter().zip(b).map(|(gram, b)| gram * b).sum();
                value * row
            };
            let squared: f32 = b.iter().enumerate().map(of_product).sum();
            // A row of zeros has no direction, and stays.
            (square + 2.0 * scaling * crossed + scaling * scaling * squared).max(f32::MIN_POSITIVE).sqrt()
        };
        tensor(slice::<f32>(squares).iter().enumerate().map(norm).collect(), [1, out])
    }

    fn gains(&self, parts: &[Gain<'_>]) -> Tensor {
        let mut gains = Vec::new();
        for part in parts {
            match part {
                Gain::Adapted { magnitude, norms } => gains.extend(quotients(slice(magnitude), slice(norms))),
                Gain::Plain(columns) => gains.resize(gains.len() + columns, 1.0),
            }
        }
        let shape = [1, gains.len()];
        tensor(gains, shape)
    }

    fn gains_backward(&self, dgains: &Tensor, first: usize, norms: &Tensor) -> Tensor {
        tensor(quotients(&slice(dgains)[first..], slice(norms)).collect(), norms.shape())
    }

    fn rescale(&self, y: &Tensor, gains: &Tensor, biases: &[&Tensor], residual: Option<Tensor>) -> Tensor {
        let (gains, bias) = (slice::<f32>(gains), joined(biases));
        let (mut scaled, width) = (self.to_host(y).into_owned(), y.columns().max(1));
        for row in scaled.chunks_exact_mut(width) {
            row.iter_mut().zip(gains).for_each(|(value, gain)| *value *= gain);
            row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias);
        }
        let mut scaled = tensor(scaled, y.shape());
        match residual {
            Some(residual) => {
                self.add(&mut scaled, &residual);
                scaled
            }
            None => scaled.cast(y.dtype()),
        }
    }

    fn rescale_backward(&self, dy: &Tensor, y: &Tensor, gains: &Tensor) -> (Tensor, Tensor) {
        let (of_output, width) = (self.to_host(dy), y.columns().max(1));
        let factors = slice::<f32>(gains);
        let mut dgains = vec![0.0_f32; width];
        let dx = with_numbers!(y, E => {
            let mut dx: Vec<E> = zeros(y.len());
            let rows = dx.chunks_exact_mut(width).zip(slice::<E>(y).chunks_exact(width));
            for ((dx, y), dy) in rows.zip(of_output.chunks_exact(width)) {
                rescale_row(dx, y, dy, factors, &mut dgains);
            }
            tensor(dx, y.shape())
        });
        (dx, tensor(dgains, gains.shape()))
    }

    fn fold(&self, weight: &mut Tensor, a: &Tensor, b: &Tensor, scaling: f32, magnitudes: Option<&Tensor>) {
        let [out, width] = weight.shape();
        let mut product = zeros::<f32>(out * width);
        gemm::nn(matrix(b), matrix(a), gemm::MatrixMut::new(&mut product, out, width), false);
        let values = vector::<f32>(weight, None);
        values.iter_mut().zip(&product).for_each(|(value, product)| *value += scaling * product);
        let magnitudes = magnitudes.map(slice::<f32>);
        for (row, magnitude) in values.chunks_mut(width.max(1)).zip(magnitudes.into_iter().flatten()) {
            // As in `adapted_row_norms`, or 0 · ∞ would make a row of zeros NaN.
            let square = sum_squares(row).max(f64::from(f32::MIN_POSITIVE));
            let gain = (f64::from(*magnitude) / square.sqrt()) as f32;
            row.iter_mut().for_each(|value| *value *= gain);
        }
    }

    fn row_squares(&self, of: &Tensor) -> Tensor {
        let values = self.to_host(of);
        let squares = values.chunks(of.columns().max(1)).map(|row| sum_squares(row) as f32);
        tensor(squares.collect(), [1, of.rows()])
    }
}

/// One row of [`Adapters::rescale_backward`].
fn rescale_row<E: Number>(dx: &mut [E], y: &[E], dy: &[f32], gains: &[f32], dgains: &mut [f32]) {
    for ((((dx, y), dy), gain), dgain) in dx.iter_mut().zip(y).zip(dy).zip(gains).zip(dgains) {
        *dgain += dy * y.widen();
        *dx = E::narrow(dy * gain);
    }
}

fn quotients<'a>(values: &'a [f32], by: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    values.iter().zip(by).map(|(value, by)| value / by)
}

/// ‖row‖².
fn sum_squares(row: &[f32]) -> f64 {
    row.iter().map(|value| f64::from(*value).powi(2)).sum()
}
