//! Matrix products in f32; in bf16 under [`bf16`].
//!
//! The three products of a linear layer `y = x · wᵀ` with the weight as `[out, in]`:
//! - forward: [`nt`] of `x [rows, in]` and `w [out, in]` gives `y [rows, out]`;
//! - input gradient: [`nn`] of `dy [rows, out]` and `w [out, in]` gives `dx [rows, in]`;
//! - weight gradient: [`tn`] of `dy [rows, out]` and `x [rows, in]` gives `dw [out, in]`.

mod banded;
pub mod bf16;
mod few_rows;
mod matrix;
mod portable;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use banded::{Band, TILE_ROWS, banded};
pub use matrix::{Matrix, MatrixMut};
use portable::product;

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
