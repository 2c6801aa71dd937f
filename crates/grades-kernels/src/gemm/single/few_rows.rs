//! Products of a few rows with a weight, as in generation: bound by reading the weight, so it is read once, by all
//! threads.

use super::kernel::Kernel;
use crate::gemm::matrix::{Matrix, MatrixMut};
use crate::gemm::rows::Rows;
use crate::threads::each_with;

/// The most rows for which this is the better way.
pub(crate) const MAX_ROWS: usize = 8;

/// Elements of the weight that one task reads.
const TASK_ELEMENTS: usize = 32_768;

/// `c[m, n] = a[m, k] · b[n, k]ᵀ`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn few_rows(a: Matrix, b: &dyn Rows, c: MatrixMut, accumulate: bool) {
    few_rows_by(Kernel::best(), a, b, c, accumulate);
}

/// [`few_rows`] by one kernel, which the processor runs.
pub(super) fn few_rows_by(kernel: &Kernel, a: Matrix, b: &dyn Rows, mut c: MatrixMut, accumulate: bool) {
    assert_eq!(a.columns(), b.columns(), "the inner dimensions of a product differ");
    let (m, n) = (a.rows(), b.rows());
    if m == 0 || n == 0 {
        return;
    }
    // Transposed, so that each task writes a part of its own.
    let mut transposed = vec![0.0; n * m];
    let task_rows = (TASK_ELEMENTS / a.columns().max(1)).max(1);
    let scratch = || vec![0.0; a.columns()];
    each_with(transposed.chunks_mut(task_rows * m).enumerate(), scratch, |scratch, (task, out)| {
        for (row, out) in (task * task_rows..).zip(out.chunks_exact_mut(m)) {
            let row = b.row(row, 0..a.columns(), scratch);
            // SAFETY: the kernel is one of this processor's; the row is as long as those of `a`, of which `out` takes one number
            // each.
            unsafe { (kernel.dots)(&a, row, out) };
        }
    });
    for i in 0..m {
        for (c, column) in c.row_mut(i).iter_mut().zip(transposed.chunks_exact(m)) {
            *c = if accumulate { *c + column[i] } else { column[i] };
        }
    }
}
