//! The products as plain loops in f64: what the fast ones are compared with.

use super::{Matrix, MatrixMut};

/// What [`super::nt`] computes.
pub(super) fn nt(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    product(a.columns(), |i, p| a.at(i, p), |p, j| b.at(j, p), c, accumulate);
}

/// What [`super::nn`] computes.
pub(super) fn nn(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    product(a.columns(), |i, p| a.at(i, p), |p, j| b.at(p, j), c, accumulate);
}

/// What [`super::tn`] computes.
pub(super) fn tn(a: Matrix, b: Matrix, c: MatrixMut, accumulate: bool) {
    product(a.rows(), |i, p| a.at(p, i), |p, j| b.at(p, j), c, accumulate);
}

fn product(
    k: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    mut c: MatrixMut,
    accumulate: bool,
) {
    for i in 0..c.rows() {
        for j in 0..c.columns() {
            let sum: f64 = (0..k).map(|p| f64::from(a(i, p)) * f64::from(b(p, j))).sum();
            let c = &mut c.row_mut(i)[j];
            *c = if accumulate { *c + sum as f32 } else { sum as f32 };
        }
    }
}
