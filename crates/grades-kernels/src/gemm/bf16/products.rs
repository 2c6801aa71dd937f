//! The three products, natively where the processor can.

#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::output::{Output, Part};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{
    product::{self, Operand},
    tile::Target,
    weight_gradient,
};
use crate::element::narrow;
use crate::gemm::rows::{Rows, Stack};
use crate::gemm::{Matrix, MatrixMut};
#[cfg(target_arch = "x86_64")]
use crate::unwritten::{written, written_all};

/// Whether this processor multiplies bf16 by an instruction of its own.
#[must_use]
pub fn is_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        crate::dispatch::has_bf16()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Forward: `c[m, n] = a[m, k] · [w₁; w₂; …]ᵀ + bias` of weights `[nᵢ, k]`, n = Σ nᵢ, and `bias [n]` where it is not
/// empty.
///
/// # Panics
/// If the shapes do not fit.
pub fn nt(a: Matrix<bf16>, weights: &[&dyn Rows], bias: &[f32], c: Output) {
    let stack = checked_nt(a, weights, bias);
    assert_eq!((a.rows(), stack.rows()), (c.rows(), c.columns()), "the result of a product has another shape");
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        // SAFETY: the shapes have just been checked; the output is borrowed mutably.
        return unsafe { product::product(a, Operand::Transposed(&stack), bias, c.target()) };
    }
    portable::nt(a, &stack, bias, c);
}

/// [`nt`] into new memory, `[m, n]` rounded to bf16: nothing is cleared that is written anyway.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn nt_new(a: Matrix<bf16>, weights: &[&dyn Rows], bias: &[f32]) -> Vec<bf16> {
    let stack = checked_nt(a, weights, bias);
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        let n = stack.rows();
        let product = |c: &mut [MaybeUninit<bf16>]| {
            let target = Target::Bf16 { c: c.as_mut_ptr().cast(), row_stride: n, accumulate: false };
            // SAFETY: the shapes have been checked; there are `n` elements for each row of `a`, borrowed mutably.
            unsafe { product::product(a, Operand::Transposed(&stack), bias, target) };
        };
        // SAFETY: a product writes all of a target that it is not added to.
        return unsafe { written(a.rows() * n, product) };
    }
    narrow(&portable::nt_f32(a, &stack, bias))
}

/// [`nt`] plus `residual [m, n]`, into new memory in f32.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn nt_onto(a: Matrix<bf16>, weights: &[&dyn Rows], bias: &[f32], residual: &[f32]) -> Vec<f32> {
    let stack = checked_nt(a, weights, bias);
    assert_eq!(residual.len(), a.rows() * stack.rows(), "what is added to a product has another shape");
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        let n = stack.rows();
        let product = |c: &mut [MaybeUninit<f32>]| {
            let target = Target::F32 { c: c.as_mut_ptr().cast(), row_stride: n, add: residual.as_ptr() };
            // SAFETY: as in `nt_new`; the residual has as many elements.
            unsafe { product::product(a, Operand::Transposed(&stack), bias, target) };
        };
        // SAFETY: a product writes all of its target; what is added here is another matrix.
        return unsafe { written(residual.len(), product) };
    }
    let mut sum = residual.to_vec();
    portable::nt(a, &stack, bias, Output::AddF32(MatrixMut::new(&mut sum, a.rows(), stack.rows())));
    sum
}

/// The weights as one, if the shapes fit.
fn checked_nt<'a>(a: Matrix<bf16>, weights: &'a [&'a dyn Rows], bias: &[f32]) -> Stack<'a> {
    let stack = Stack::new(weights);
    assert!(weights.is_empty() || a.columns() == stack.columns(), "the inner dimensions of a product differ");
    assert!(bias.is_empty() || bias.len() == stack.rows(), "the bias of a product has another length");
    stack
}

/// Input gradient: `c[m, k] = a[m, n] · [w₁; w₂; …]` of weights `[nᵢ, k]`, n = Σ nᵢ.
///
/// # Panics
/// If the shapes do not fit.
pub fn nn(a: Matrix<bf16>, weights: &[&dyn Rows], c: Output) {
    let stack = Stack::new(weights);
    assert_eq!(a.columns(), stack.rows(), "the inner dimensions of a product differ");
    assert_eq!((a.rows(), stack.columns()), (c.rows(), c.columns()), "the result of a product has another shape");
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        // SAFETY: the shapes have just been checked; the output is borrowed mutably.
        return unsafe { product::product(a, Operand::Plain(&stack), &[], c.target()) };
    }
    portable::nn(a, &stack, c);
}

/// [`nn`] into new memory, `[m, k]` rounded to bf16.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn nn_new(a: Matrix<bf16>, weights: &[&dyn Rows]) -> Vec<bf16> {
    let stack = Stack::new(weights);
    assert_eq!(a.columns(), stack.rows(), "the inner dimensions of a product differ");
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        let k = stack.columns();
        let product = |c: &mut [MaybeUninit<bf16>]| {
            let target = Target::Bf16 { c: c.as_mut_ptr().cast(), row_stride: k, accumulate: false };
            // SAFETY: as in `nt_new`, with `k` elements for each row.
            unsafe { product::product(a, Operand::Plain(&stack), &[], target) };
        };
        // SAFETY: as in `nt_new`.
        return unsafe { written(a.rows() * k, product) };
    }
    narrow(&portable::nn_f32(a, &stack))
}

/// Weight gradients: `c[n, k] = a[m, first..first + n]ᵀ · b[m, k]` for each part.
///
/// # Panics
/// If the shapes do not fit.
pub fn tn(a: Matrix<bf16>, b: Matrix<bf16>, parts: Vec<Part>) {
    assert_eq!(a.rows(), b.rows(), "the inner dimensions of a product differ");
    for Part { first, c, .. } in &parts {
        assert!(first + c.rows() <= a.columns(), "a part of a product lies outside of it");
        assert_eq!(c.columns(), b.columns(), "the result of a product has another shape");
    }
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        let piece = |Part { first, c, accumulate }: Part| weight_gradient::Piece {
            first,
            rows: c.rows(),
            target: if accumulate { Output::AddF32(c) } else { Output::F32(c) }.target(),
        };
        // SAFETY: the shapes have just been checked; the outputs are borrowed mutably.
        return unsafe { weight_gradient::product(a, b, parts.into_iter().map(piece).collect()) };
    }
    portable::tn(a, b, parts);
}

/// [`tn`] of ranges of the columns of `a` into new memory, `[columns, k]` each: `b` is packed once for all of them.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn tn_new(a: Matrix<bf16>, b: Matrix<bf16>, columns: &[Range<usize>]) -> Vec<Vec<f32>> {
    assert_eq!(a.rows(), b.rows(), "the inner dimensions of a product differ");
    let inside = |columns: &Range<usize>| columns.start <= columns.end && columns.end <= a.columns();
    assert!(columns.iter().all(inside), "a part of a product lies outside of it");
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        let k = b.columns();
        let lens: Vec<usize> = columns.iter().map(|columns| columns.len() * k).collect();
        let product = |new: Vec<&mut [MaybeUninit<f32>]>| {
            let piece = |(columns, c): (&Range<usize>, &mut [MaybeUninit<f32>])| weight_gradient::Piece {
                first: columns.start,
                rows: columns.len(),
                target: Target::F32 { c: c.as_mut_ptr().cast(), row_stride: k, add: std::ptr::null() },
            };
            // SAFETY: the columns lie within `a`; each target has `k` elements for each of them, borrowed mutably.
            unsafe { weight_gradient::product(a, b, columns.iter().zip(new).map(piece).collect()) };
        };
        // SAFETY: a product writes all of the targets that it is not added to.
        return unsafe { written_all(&lens, product) };
    }
    portable::tn_f32(a, b, columns)
}
