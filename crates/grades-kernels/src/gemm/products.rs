//! The three products in f32.
//!
//! The order of additions: an element is summed over chunks of the inner dimension, and with `accumulate` the sums of the chunks
//! are added to what `c` holds one after the other, `((c + s₁) + s₂) + …`. The length of a chunk depends on the shapes and on
//! the processor's caches; it is the whole inner dimension in [`nt`] of up to eight rows, and a single term where the inner
//! dimension is at most 2 or an operand a vector. The result is therefore the same on any number of threads, but not to the bit
//! that of the product and a sum apart, or of another processor.

use super::few_rows;
use super::matrix::{Matrix, MatrixMut};
use super::portable::{product, product_new};

/// `c[m, n] = a[m, k] · b[n, k]ᵀ`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nt(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    if a.rows() <= few_rows::MAX_ROWS {
        few_rows::nt(a, b, c, accumulate);
    } else {
        product(a.strided(), b.strided().transposed(), c, accumulate);
    }
}

/// `c[m, n] = a[m, k] · b[k, n]`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nn(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    product(a.strided(), b.strided(), c, accumulate);
}

/// `c[m, n] = a[k, m]ᵀ · b[k, n]`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn tn(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    product(a.strided().transposed(), b.strided(), c, accumulate);
}

/// [`tn`] into new memory.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn tn_new(a: Matrix, b: Matrix) -> Vec<f32> {
    product_new(a.strided().transposed(), b.strided())
}
