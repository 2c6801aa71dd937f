//! The three products in f32.
//!
//! The order of additions: an element is summed term by term over blocks of the inner dimension (of 1,536; of 1,024 in [`tn`]), and the sums of the
//! blocks are added to what `c` holds (if `accumulate`) one after the other, `((c + s₁) + s₂) + …`. [`nt`] of up to eight rows sums
//! by lanes instead. The result is therefore the same on any number of threads, but not to the bit that of the product and a sum
//! apart.

use std::mem::MaybeUninit;

use super::matrix::{Matrix, MatrixMut};
use super::rows::Rows;
use super::single::{Left, MAX_FEW_ROWS, Piece, Right, Target, few_rows, product, transposed_product};
use crate::unwritten::written;

/// `c[m, n] = a[m, k] · b[n, k]ᵀ`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nt(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    nt_rows(a, &b, c, accumulate);
}

/// `c[m, n] = a[m, k] · b[k, n]`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nn(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    nn_rows(a, &b, c, accumulate);
}

/// `c[m, n] = a[k, m]ᵀ · b[k, n]`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn tn(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    let (inner, shape) = ((a.rows(), b.rows()), (a.columns(), b.columns()));
    check(inner, shape, &c);
    let piece = Piece { first: 0, rows: a.columns(), target: target(c, accumulate) };
    // SAFETY: the shapes have just been checked; `c` is borrowed mutably.
    unsafe { transposed_product(&a, &b, &[piece]) };
}

/// [`tn`] into new memory.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn tn_new(a: Matrix, b: Matrix) -> Vec<f32> {
    assert_eq!(a.rows(), b.rows(), "the inner dimensions of a product differ");
    let (m, n) = (a.columns(), b.columns());
    let product = |c: &mut [MaybeUninit<f32>]| {
        let target = Target { c: c.as_mut_ptr().cast(), row_stride: n, accumulate: false };
        // SAFETY: there are `n` elements for each column of `a`, borrowed mutably.
        unsafe { transposed_product(&a, &b, &[Piece { first: 0, rows: m, target }]) };
    };
    // SAFETY: a product that is not added writes all of its target.
    unsafe { written(m * n, product) }
}

/// [`nt`] with a `b` that may have to be decoded, panel by panel: nothing dense of its size exists.
///
/// # Panics
/// If the shapes do not fit.
pub fn nt_rows(a: Matrix, b: &dyn Rows, c: MatrixMut, accumulate: bool) {
    check((a.columns(), b.columns()), (a.rows(), b.rows()), &c);
    if a.rows() <= MAX_FEW_ROWS {
        return few_rows(a, b, c, accumulate);
    }
    let b = Right { matrix: b, transposed: true, rounded: false };
    // SAFETY: the shapes have just been checked; `c` is borrowed mutably.
    unsafe { product(Left::F32(a), b, target(c, accumulate)) };
}

/// [`nn`] with a `b` that may have to be decoded, likewise.
///
/// # Panics
/// If the shapes do not fit.
pub fn nn_rows(a: Matrix, b: &dyn Rows, c: MatrixMut, accumulate: bool) {
    check((a.columns(), b.rows()), (a.rows(), b.columns()), &c);
    let b = Right { matrix: b, transposed: false, rounded: false };
    // SAFETY: as in `nt_rows`.
    unsafe { product(Left::F32(a), b, target(c, accumulate)) };
}

/// Panics unless both inner dimensions are equal and the result has the shape of the product.
fn check(inner: (usize, usize), shape: (usize, usize), c: &MatrixMut) {
    assert_eq!(inner.0, inner.1, "the inner dimensions of a product differ");
    assert_eq!(shape, (c.rows(), c.columns()), "the result of a product has another shape");
}

fn target(mut c: MatrixMut, accumulate: bool) -> Target {
    Target { row_stride: c.row_stride().unsigned_abs(), c: c.as_mut_ptr(), accumulate }
}
