//! The products as plain loops in f64 over the rounded numbers: what the fast ones are compared with.

use half::bf16;

use crate::gemm::Matrix;

/// `a[m, k] · b` where `b(p, j)` is the element in row `p` and column `j` of `[k, n]`.
pub(super) fn product(a: Matrix<bf16>, n: usize, b: impl Fn(usize, usize) -> f32) -> Vec<f64> {
    let rounded = |x: f32| f64::from(bf16::from_f32(x).to_f32());
    let element = |i: usize, j: usize| -> f64 {
        (0..a.columns()).map(|p| f64::from(a.at(i, p).to_f32()) * rounded(b(p, j))).sum()
    };
    (0..a.rows()).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
}
