//! Matrix products of bf16 numbers with sums in f32.
//!
//! The same three products of a linear layer `y = x · wᵀ` as in [`super`], with activations and their gradients in
//! bf16, weights in f32 (or in any form that [`Rows`] decodes), rounded to bf16 while they are packed, and weight
//! gradients in f32. On a processor with AVX512-BF16 the products run on its dot-product instruction, which treats
//! denormal numbers as zero; elsewhere the rounded numbers are multiplied in f32.
//!
//! A weight is packed panel by panel by the thread that needs the panel next, so that nothing of a whole weight's
//! size is written, and once for all rows of the batch.

#[cfg(target_arch = "x86_64")]
mod pack;
mod portable;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(test)]
mod reference;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod weight_gradient;

use half::bf16;

use super::{Matrix, MatrixMut};
pub use rows::Rows;
use rows::Stack;

/// Where a product goes.
#[derive(Debug)]
pub enum Output<'a> {
    /// f32, in place of what is there.
    F32(MatrixMut<'a>),
    /// f32, added to what is there.
    AddF32(MatrixMut<'a>),
    /// Rounded to bf16, in place of what is there.
    Bf16(MatrixMut<'a, bf16>),
    /// Added to what is there, and rounded to bf16.
    AddBf16(MatrixMut<'a, bf16>),
}

impl Output<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::F32(c) | Self::AddF32(c) => c.rows(),
            Self::Bf16(c) | Self::AddBf16(c) => c.rows(),
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::F32(c) | Self::AddF32(c) => c.columns(),
            Self::Bf16(c) | Self::AddBf16(c) => c.columns(),
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
        return product::product(a, product::Operand::Transposed(&stack), bias, c);
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
        return product::product(a, product::Operand::Plain(&stack), &[], c);
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
        return weight_gradient::product(a, b, parts);
    }
    portable::tn(a, b, parts);
}
