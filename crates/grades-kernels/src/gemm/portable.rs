//! The product of the `gemm` crate: every processor, instruction set chosen at run time.

use super::matrix::{MatrixMut, Strided};

/// `c = a · b`, plus `c` if `accumulate`, on rayon's threads.
///
/// The `gemm` crate sums every element over the same chunks of the inner dimension whatever the number of threads,
/// which a test checks: the result does not depend on it.
pub(super) fn product(a: Strided, b: Strided, mut c: MatrixMut, accumulate: bool) {
    let (m, n, k) = (a.rows(), b.columns(), a.columns());
    assert_eq!(k, b.rows(), "the inner dimensions of a product differ");
    assert_eq!((m, n), (c.rows(), c.columns()), "the result of a product has another shape");
    crate::threads::rest();
    // SAFETY: the constructors of the three views have checked that every element which these sizes and strides reach
    // lies within its slice; `c` is borrowed mutably, so it overlaps neither `a` nor `b`, and its rows do not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c.row_stride(),
            accumulate,
            a.as_ptr(),
            a.column_stride(),
            a.row_stride(),
            b.as_ptr(),
            b.column_stride(),
            b.row_stride(),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}
