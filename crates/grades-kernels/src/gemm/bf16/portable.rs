//! The products on any processor: the rounded numbers multiplied in f32.

use half::bf16;

use super::rows::Stack;
use super::{Output, Part};
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

/// Writes `values [rows, columns]`, plus `bias` where there is one, to where they go.
fn write(values: &[f32], bias: &[f32], c: Output) {
    let columns = c.columns();
    let row_of = |row: usize| {
        let values = values[row * columns..][..columns].iter().enumerate();
        values.map(|(column, value)| value + bias.get(column).unwrap_or(&0.0))
    };
    match c {
        Output::F32(mut c) => {
            (0..c.rows()).for_each(|row| c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c = v));
        }
        Output::AddF32(mut c) => {
            (0..c.rows()).for_each(|row| c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c += v));
        }
        Output::SumF32(mut c, other) => (0..c.rows()).for_each(|row| {
            let sums = other.row(row).iter().zip(row_of(row));
            c.row_mut(row).iter_mut().zip(sums).for_each(|(c, (other, v))| *c = other + v);
        }),
        Output::Bf16(mut c) => (0..c.rows())
            .for_each(|row| c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c = bf16::from_f32(v))),
        Output::AddBf16(mut c) => (0..c.rows()).for_each(|row| {
            c.row_mut(row).iter_mut().zip(row_of(row)).for_each(|(c, v)| *c = bf16::from_f32(c.to_f32() + v));
        }),
    }
}

pub(super) fn nt(a: Matrix<bf16>, stack: &Stack, bias: &[f32], c: Output) {
    let (a_values, w) = (widened(a), rounded(stack));
    let mut y = vec![0.0; a.rows() * stack.rows()];
    gemm::nt(
        Matrix::new(&a_values, a.rows(), a.columns()),
        Matrix::new(&w, stack.rows(), a.columns()),
        MatrixMut::new(&mut y, a.rows(), stack.rows()),
        false,
    );
    write(&y, bias, c);
}

pub(super) fn nn(a: Matrix<bf16>, stack: &Stack, c: Output) {
    let (a_values, w) = (widened(a), rounded(stack));
    let mut y = vec![0.0; a.rows() * stack.columns()];
    gemm::nn(
        Matrix::new(&a_values, a.rows(), a.columns()),
        Matrix::new(&w, stack.rows(), stack.columns()),
        MatrixMut::new(&mut y, a.rows(), stack.columns()),
        false,
    );
    write(&y, &[], c);
}

pub(super) fn tn(a: Matrix<bf16>, b: Matrix<bf16>, parts: Vec<Part>) {
    let (a_values, b_values) = (widened(a), widened(b));
    for Part { first, c, accumulate } in parts {
        let columns = &a_values[first.min(a_values.len())..];
        let a = Matrix::with_stride(columns, a.rows(), c.rows(), a.columns());
        gemm::tn(a, Matrix::new(&b_values, b.rows(), b.columns()), c, accumulate);
    }
}
