//! The product of the `gemm` crate: every processor, instruction set chosen at run time.

use super::matrix::{MatrixMut, Strided};
use crate::unwritten::written;

/// `c = a · b`, plus `c` if `accumulate`, on rayon's threads.
///
/// The `gemm` crate sums every element over the same chunks of the inner dimension whatever the number of threads,
/// which a test checks: the result does not depend on it.
pub(super) fn product(a: Strided, b: Strided, mut c: MatrixMut, accumulate: bool) {
    assert_eq!((a.rows(), b.columns()), (c.rows(), c.columns()), "the result of a product has another shape");
    // SAFETY: the constructor of the view has checked that every element which these sizes and strides reach lies within its
    // slice; `c` is borrowed mutably, so it overlaps neither `a` nor `b`, and its rows do not overlap.
    unsafe { run(a, b, c.as_mut_ptr(), c.row_stride(), accumulate) }
}

/// `a · b` in new memory, row-major.
pub(super) fn product_new(a: Strided, b: Strided) -> Vec<f32> {
    let (m, n) = (a.rows(), b.columns());
    if m <= 1 || n <= 1 {
        // The `gemm` crate makes slices of results that are vectors, so these must hold values before.
        let mut c = vec![0.0; m * n];
        product(a, b, MatrixMut::new(&mut c, m, n), false);
        return c;
    }
    // SAFETY: the memory is this call's alone, `n` elements a row. A product that is not added writes them all through
    // pointers, and reads none of them before.
    unsafe { written(m * n, |c| run(a, b, c.as_mut_ptr().cast(), n as isize, false)) }
}

/// # Safety
/// `c` takes rows as long as those of `b`, as many as `a` has, `row_stride` apart, which overlap neither each other nor
/// anything that is read or written elsewhere. They hold values if `accumulate`; if not, they are written only.
unsafe fn run(a: Strided, b: Strided, c: *mut f32, row_stride: isize, accumulate: bool) {
    let (m, n, k) = (a.rows(), b.columns(), a.columns());
    assert_eq!(k, b.rows(), "the inner dimensions of a product differ");
    crate::threads::rest();
    // The crate wants a result by columns: cᵀ = bᵀ · aᵀ. One column is one already.
    let by_columns = row_stride <= 1;
    let [left, right] = if by_columns { [a, b] } else { [b.transposed(), a.transposed()] };
    let ([m, n], [column, row]) = if by_columns { ([m, n], [1, row_stride]) } else { ([n, m], [row_stride, 1]) };
    // SAFETY: the constructors of `a` and `b` have checked that every element which these sizes and strides reach lies within
    // its slice; the caller has promised so for `c`.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            c,
            column,
            row,
            accumulate,
            left.as_ptr(),
            left.column_stride(),
            left.row_stride(),
            right.as_ptr(),
            right.column_stride(),
            right.row_stride(),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::Rayon(0),
        );
    }
}
