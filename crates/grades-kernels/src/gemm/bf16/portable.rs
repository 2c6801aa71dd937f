//! The products on any processor: the rounded numbers multiplied in f32.

use std::ops::Range;

use half::bf16;

use super::output::{Output, Part};
use super::rows::Stack;
use crate::gemm::{self, Matrix, MatrixMut};

fn widened(a: Matrix<bf16>) -> Vec<f32> {
    (0..a.rows()).flat_map(|row| a.row(row)).map(|x| x.to_f32()).collect()
}

/// All rows, rounded.
fn rounded(stack: &Stack) -> Vec<f32> {
    let columns = stack.columns();
    let mut all = vec![0.0; stack.rows() * columns];
    let mut scratch = vec![0.0; columns];
    for (row, out) in all.chunks_exact_mut(columns.max(1)).enumerate() {
        let values = stack.row(row, 0..columns, &mut scratch);
        for (out, value) in out.iter_mut().zip(values) {
            *out = bf16::from_f32(*value).to_f32();
        }
    }
    all
}

/// Writes `values [rows, columns]` to where they go.
fn write(values: &[f32], c: Output) {
    let columns = c.columns();
    let row_of = |row: usize| values[row * columns..][..columns].iter();
    match c {
        Output::F32(mut c) => {
            (0..c.rows()).for_each(|row| c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c = *v));
        }
        Output::AddF32(mut c) => {
            (0..c.rows()).for_each(|row| c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c += v));
        }
        Output::Bf16(mut c) => (0..c.rows())
            .for_each(|row| c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c = bf16::from_f32(*v))),
        Output::AddBf16(mut c) => (0..c.rows()).for_each(|row| {
            c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c = bf16::from_f32(c.to_f32() + v));
        }),
    }
}

pub(super) fn nt(a: Matrix<bf16>, stack: &Stack, bias: &[f32], c: Output) {
    write(&nt_f32(a, stack, bias), c);
}

/// The product in f32, `[rows of a, rows of the stack]`.
pub(super) fn nt_f32(a: Matrix<bf16>, stack: &Stack, bias: &[f32]) -> Vec<f32> {
    let (a_values, w) = (widened(a), rounded(stack));
    let mut y = vec![0.0; a.rows() * stack.rows()];
    gemm::nt(
        Matrix::new(&a_values, a.rows(), a.columns()),
        Matrix::new(&w, stack.rows(), a.columns()),
        MatrixMut::new(&mut y, a.rows(), stack.rows()),
        false,
    );
    if !bias.is_empty() {
        let rows = y.chunks_exact_mut(bias.len());
        rows.for_each(|row| row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
    }
    y
}

pub(super) fn nn(a: Matrix<bf16>, stack: &Stack, c: Output) {
    write(&nn_f32(a, stack), c);
}

/// The product in f32, `[rows of a, columns of the stack]`.
pub(super) fn nn_f32(a: Matrix<bf16>, stack: &Stack) -> Vec<f32> {
    let (a_values, w) = (widened(a), rounded(stack));
    let mut y = vec![0.0; a.rows() * stack.columns()];
    gemm::nn(
        Matrix::new(&a_values, a.rows(), a.columns()),
        Matrix::new(&w, stack.rows(), stack.columns()),
        MatrixMut::new(&mut y, a.rows(), stack.columns()),
        false,
    );
    y
}

pub(super) fn tn(a: Matrix<bf16>, b: Matrix<bf16>, parts: Vec<Part>) {
    let (a_values, b_values) = (widened(a), widened(b));
    for Part { first, c, accumulate } in parts {
        let a = columns(&a_values, a, first, c.rows());
        gemm::tn(a, Matrix::new(&b_values, b.rows(), b.columns()), c, accumulate);
    }
}

/// The products of ranges of the columns of `a`, `[columns, columns of b]` each.
pub(super) fn tn_f32(a: Matrix<bf16>, b: Matrix<bf16>, ranges: &[Range<usize>]) -> Vec<Vec<f32>> {
    let (a_values, b_values) = (widened(a), widened(b));
    let b = Matrix::new(&b_values, b.rows(), b.columns());
    ranges.iter().map(|range| gemm::tn_new(columns(&a_values, a, range.start, range.len()), b)).collect()
}

/// Columns `first .. first + count` of the values of `a`.
fn columns<'v>(values: &'v [f32], a: Matrix<bf16>, first: usize, count: usize) -> Matrix<'v> {
    Matrix::with_stride(&values[first.min(values.len())..], a.rows(), count, a.columns())
}
