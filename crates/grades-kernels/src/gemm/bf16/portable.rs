//! The products on any processor: the rounded numbers multiplied in f32 by the tiles of [`crate::gemm::single`].

use std::ops::Range;

use half::bf16;

use super::output::{Output, Part};
use crate::element::Element;
use crate::gemm::rows::{Rows, Stack};
use crate::gemm::single::{Left, Piece, Right, Target, product, transposed_product};
use crate::gemm::{Matrix, MatrixMut};
use crate::threads::each;
use crate::unwritten::{written, written_all};

pub(super) fn nt(a: Matrix<bf16>, stack: &Stack, bias: &[f32], c: Output) {
    run(a, stack, true, bias, c);
}

/// The product in f32, `[rows of a, rows of the stack]`.
pub(super) fn nt_f32(a: Matrix<bf16>, stack: &Stack, bias: &[f32]) -> Vec<f32> {
    let mut y = run_new(a, stack, true);
    add_bias(MatrixMut::new(&mut y, a.rows(), stack.rows()), bias);
    y
}

pub(super) fn nn(a: Matrix<bf16>, stack: &Stack, c: Output) {
    run(a, stack, false, &[], c);
}

/// The product in f32, `[rows of a, columns of the stack]`.
pub(super) fn nn_f32(a: Matrix<bf16>, stack: &Stack) -> Vec<f32> {
    run_new(a, stack, false)
}

/// `a · b + bias` to where it goes, with the stack or its transpose as `b`.
fn run(a: Matrix<bf16>, stack: &Stack, transposed: bool, bias: &[f32], c: Output) {
    let (mut c, accumulate) = match c {
        Output::F32(c) => (c, false),
        Output::AddF32(c) => (c, true),
        Output::Bf16(c) => return write(&run_new(a, stack, transposed), bias, c, false),
        Output::AddBf16(c) => return write(&run_new(a, stack, transposed), bias, c, true),
    };
    let target = Target { row_stride: c.row_stride().unsigned_abs(), c: c.as_mut_ptr(), accumulate };
    // SAFETY: the caller has checked the shapes; `c` is borrowed mutably.
    unsafe { product(Left::Bf16(a), Right { matrix: stack, transposed, rounded: true }, target) };
    add_bias(c, bias);
}

/// `a · b` in f32, in new memory.
fn run_new(a: Matrix<bf16>, stack: &Stack, transposed: bool) -> Vec<f32> {
    let n = if transposed { stack.rows() } else { stack.columns() };
    // SAFETY: the caller has checked the shapes; a product that is not added writes all of its target, which is this call's alone.
    unsafe {
        written(a.rows() * n, |c| {
            let target = Target { c: c.as_mut_ptr().cast(), row_stride: n, accumulate: false };
            product(Left::Bf16(a), Right { matrix: stack, transposed, rounded: true }, target);
        })
    }
}

/// Adds a bias, which may be empty, to each row.
fn add_bias(mut c: MatrixMut, bias: &[f32]) {
    if !bias.is_empty() {
        (0..c.rows()).for_each(|row| c.row_mut(row).iter_mut().zip(bias).for_each(|(c, bias)| *c += bias));
    }
}

/// Writes `values [rows, columns]`, plus a bias that may be empty, rounded to `c` or added to it.
fn write(values: &[f32], bias: &[f32], mut c: MatrixMut<bf16>, accumulate: bool) {
    let columns = c.columns();
    if columns > 0 {
        each(values.chunks_exact(columns).zip(c.rows_mut()), |(values, c)| {
            let bias = bias.iter().copied().chain(std::iter::repeat(0.0));
            for ((c, value), bias) in c.iter_mut().zip(values).zip(bias) {
                let before = if accumulate { c.widen() } else { 0.0 };
                *c = Element::narrow(before + (value + bias));
            }
        });
    }
}

pub(super) fn tn(a: Matrix<bf16>, b: Matrix<bf16>, parts: Vec<Part>) {
    let piece = |Part { first, mut c, accumulate }: Part| {
        let target = Target { row_stride: c.row_stride().unsigned_abs(), c: c.as_mut_ptr(), accumulate };
        Piece { first, rows: c.rows(), target }
    };
    let pieces: Vec<Piece> = parts.into_iter().map(piece).collect();
    // SAFETY: the caller has checked the shapes; the results are borrowed mutably for this call.
    unsafe { transposed_product(&a, &b, &pieces) };
}

/// The products of ranges of the columns of `a`, `[columns, columns of b]` each.
pub(super) fn tn_f32(a: Matrix<bf16>, b: Matrix<bf16>, ranges: &[Range<usize>]) -> Vec<Vec<f32>> {
    let n = b.columns();
    let lens: Vec<usize> = ranges.iter().map(|range| range.len() * n).collect();
    // SAFETY: the caller has checked the shapes; each target has `n` elements for each column, all of which are written.
    unsafe {
        written_all(&lens, |new| {
            let piece = |(range, c): (&Range<usize>, &mut [std::mem::MaybeUninit<f32>])| {
                let target = Target { c: c.as_mut_ptr().cast(), row_stride: n, accumulate: false };
                Piece { first: range.start, rows: range.len(), target }
            };
            let pieces: Vec<Piece> = ranges.iter().zip(new).map(piece).collect();
            transposed_product(&a, &b, &pieces);
        })
    }
}
