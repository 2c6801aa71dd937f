//! Products of a few rows with a weight, as in generation: bound by reading the weight, so it is read once, by all
//! threads.

use super::matrix::{Matrix, MatrixMut};
use crate::dispatch::multiversion;
use crate::math::dot;
use crate::threads::each;

/// The most rows for which this is the better way.
pub(super) const MAX_ROWS: usize = 8;

/// Elements of the weight that one task reads.
const TASK_ELEMENTS: usize = 32_768;

/// `c[m, n] = a[m, k] · b[n, k]ᵀ`, added to what `c` holds if `accumulate`.
pub(super) fn nt(a: Matrix, b: Matrix, mut c: MatrixMut, accumulate: bool) {
    assert_eq!(a.columns(), b.columns(), "the inner dimensions of a product differ");
    assert_eq!((a.rows(), b.rows()), (c.rows(), c.columns()), "the result of a product has another shape");
    let (m, n) = (a.rows(), b.rows());
    if m == 0 || n == 0 {
        return;
    }
    // Transposed, so that each task writes a part of its own.
    let mut transposed = vec![0.0; n * m];
    let task_rows = (TASK_ELEMENTS / a.columns().max(1)).max(1);
    each(transposed.chunks_mut(task_rows * m).enumerate(), |(task, out)| {
        products_of_rows(a, b, task * task_rows, out);
    });
    for i in 0..m {
        for (c, column) in c.row_mut(i).iter_mut().zip(transposed.chunks_exact(m)) {
            *c = if accumulate { *c + column[i] } else { column[i] };
        }
    }
}

multiversion! {
    /// `out [rows, m]`: rows of `b` from `first` on, times all rows of `a`.
    fn products_of_rows<FMA>(a: Matrix, b: Matrix, first: usize, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(a.rows()).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                *out = dot::<FMA>(a.row(i), b.row(first + row));
            }
        }
    }
}
