//! Matrix products of bf16 numbers with sums in f32.
//!
//! The same three products of a linear layer `y = x · wᵀ` as in [`super`], with activations and their gradients in
//! bf16, weights in f32 (or in any form that [`Rows`] decodes), rounded to bf16 while they are packed, and weight
//! gradients in f32. On a processor with AVX512-BF16 the products run on its dot-product instruction, which treats
//! denormal numbers as zero; elsewhere the rounded numbers are multiplied in f32.
//!
//! A weight is packed panel by panel by the thread that needs the panel next, so that nothing of a whole weight's
//! size is written, and once for all rows of the batch.

mod gated;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack;
mod portable;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(test)]
mod reference;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tile;
#[cfg(target_arch = "x86_64")]
mod weight_gradient;

use std::ops::Range;

use half::bf16;

use super::{Matrix, MatrixMut};
use crate::memory::{written, written_all};
pub use gated::gated_new;
pub use rows::Rows;
use rows::Stack;

/// Where a product goes.
#[derive(Debug)]
pub enum Output<'a> {
    /// f32, in place of what is there.
    F32(MatrixMut<'a>),
    /// f32, added to what is there.
    AddF32(MatrixMut<'a>),
    /// f32, plus another matrix of the same shape and stride, in place of what is there.
    SumF32(MatrixMut<'a>, Matrix<'a>),
    /// Rounded to bf16, in place of what is there.
    Bf16(MatrixMut<'a, bf16>),
    /// Added to what is there, and rounded to bf16.
    AddBf16(MatrixMut<'a, bf16>),
}

impl Output<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::F32(c) | Self::AddF32(c) | Self::SumF32(c, _) => c.rows(),
            Self::Bf16(c) | Self::AddBf16(c) => c.rows(),
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::F32(c) | Self::AddF32(c) | Self::SumF32(c, _) => c.columns(),
            Self::Bf16(c) | Self::AddBf16(c) => c.columns(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn target(self) -> tile::Target {
        use tile::Target;
        let f32 = |mut c: MatrixMut, accumulate| {
            let (row_stride, c) = (c.row_stride().unsigned_abs(), c.as_mut_ptr());
            Target::F32 { row_stride, c, add: if accumulate { c.cast_const() } else { std::ptr::null() } }
        };
        let bf16 = |mut c: MatrixMut<bf16>, accumulate| {
            let row_stride = c.row_stride().unsigned_abs();
            Target::Bf16 { row_stride, c: c.as_mut_ptr(), accumulate }
        };
        match self {
            Self::F32(c) => f32(c, false),
            Self::AddF32(c) => f32(c, true),
            Self::SumF32(mut c, other) => {
                let same =
                    (c.rows(), c.columns(), c.row_stride()) == (other.rows(), other.columns(), other.row_stride());
                assert!(same, "what is added to a product has another shape");
                let row_stride = c.row_stride().unsigned_abs();
                Target::F32 { row_stride, c: c.as_mut_ptr(), add: other.as_ptr() }
            }
            Self::Bf16(c) => bf16(c, false),
            Self::AddBf16(c) => bf16(c, true),
        }
    }
}

/// Whether this processor multiplies bf16 numbers by an instruction of its own.
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
    let stack = Stack::new(weights);
    assert!(weights.is_empty() || a.columns() == stack.columns(), "the inner dimensions of a product differ");
    assert_eq!((a.rows(), stack.rows()), (c.rows(), c.columns()), "the result of a product has another shape");
    assert!(bias.is_empty() || bias.len() == c.columns(), "the bias of a product has another length");
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        // SAFETY: the shapes have just been checked; the output is borrowed mutably.
        return unsafe { product::product(a, product::Operand::Transposed(&stack), bias, c.target()) };
    }
    portable::nt(a, &stack, bias, c);
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
        return unsafe { product::product(a, product::Operand::Plain(&stack), &[], c.target()) };
    }
    portable::nn(a, &stack, c);
}

/// One of the weight gradients that [`tn`] computes.
#[derive(Debug)]
pub struct Part<'a> {
    /// The first of the columns of `a` that it belongs to; it has as many as `c` has rows.
    pub first: usize,
    /// The gradient `[n, k]`.
    pub c: MatrixMut<'a>,
    /// Whether it is added to what `c` holds.
    pub accumulate: bool,
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

/// [`nt`] into new memory, `[m, n]` rounded to bf16: nothing is cleared that is written anyway.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn nt_new(a: Matrix<bf16>, weights: &[&dyn Rows], bias: &[f32]) -> Vec<bf16> {
    let (m, n) = (a.rows(), weights.iter().map(|weight| weight.rows()).sum());
    // SAFETY: the product writes every element of its result, from its operands alone, or panics.
    unsafe { written(m * n, |c| nt(a, weights, bias, Output::Bf16(MatrixMut::new(c, m, n)))) }
}

/// [`nt`] plus `residual [m, n]`, into new memory in f32.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn nt_onto(a: Matrix<bf16>, weights: &[&dyn Rows], bias: &[f32], residual: &[f32]) -> Vec<f32> {
    let (m, n) = (a.rows(), weights.iter().map(|weight| weight.rows()).sum());
    assert_eq!(residual.len(), m * n, "what is added to a product has another shape");
    let residual = Matrix::new(residual, m, n);
    // SAFETY: as above.
    unsafe { written(m * n, |c| nt(a, weights, bias, Output::SumF32(MatrixMut::new(c, m, n), residual))) }
}

/// [`nn`] into new memory, `[m, k]` rounded to bf16.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn nn_new(a: Matrix<bf16>, weights: &[&dyn Rows]) -> Vec<bf16> {
    let (m, k) = (a.rows(), weights.first().map_or(0, |weight| weight.columns()));
    // SAFETY: as above.
    unsafe { written(m * k, |c| nn(a, weights, Output::Bf16(MatrixMut::new(c, m, k)))) }
}

/// [`tn`] of ranges of the columns of `a` into new memory, `[columns, k]` each: `b` is packed once for all of them.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn tn_new(a: Matrix<bf16>, b: Matrix<bf16>, columns: &[Range<usize>]) -> Vec<Vec<f32>> {
    let k = b.columns();
    let lens: Vec<usize> = columns.iter().map(|columns| columns.len() * k).collect();
    // SAFETY: as above.
    unsafe {
        written_all(&lens, |new| {
            let parts = columns.iter().zip(new).map(|(columns, c)| {
                let c = MatrixMut::new(c, columns.len(), k);
                Part { first: columns.start, c, accumulate: false }
            });
            tn(a, b, parts.collect());
        })
    }
}
