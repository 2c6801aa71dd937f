//! f32 products with a packed matrix: a block of its rows is decoded at a time, so that nothing dense of its size exists.

use std::ops::Range;

use rayon::prelude::*;

use super::packed::PackedMatrix;
use crate::gemm::{self, Matrix, MatrixMut};

/// Values that are decoded at once: 1 MiB.
const BLOCK: usize = 1 << 18;

/// The rows of a matrix in blocks.
fn blocks(weight: &PackedMatrix) -> impl Iterator<Item = Range<usize>> {
    let (rows, step) = (weight.rows(), (BLOCK / weight.columns().max(1)).max(1));
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

/// Decodes some rows on all threads.
fn decode(weight: &PackedMatrix, rows: Range<usize>, scratch: &mut Vec<f32>) {
    let columns = weight.columns();
    scratch.resize(rows.len() * columns, 0.0);
    scratch.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, out)| {
        weight.range((rows.start + row) * columns, out);
    });
}

/// `c[m, n] = a[m, k] · weight[n, k]ᵀ`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nt(a: Matrix, weight: &PackedMatrix, mut c: MatrixMut, accumulate: bool) {
    let (n, k) = (weight.rows(), weight.columns());
    assert_eq!(a.columns(), k, "the inner dimensions of a product differ");
    assert_eq!((a.rows(), n), (c.rows(), c.columns()), "the result of a product has another shape");
    let mut scratch = Vec::new();
    for rows in blocks(weight) {
        let (first, count) = (rows.start, rows.len());
        decode(weight, rows, &mut scratch);
        gemm::nt(a, Matrix::new(&scratch, count, k), c.part(first, count), accumulate);
    }
}

/// `c[m, k] = a[m, n] · weight[n, k]`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nn(a: Matrix, weight: &PackedMatrix, mut c: MatrixMut, accumulate: bool) {
    let (n, k) = (weight.rows(), weight.columns());
    assert_eq!(a.columns(), n, "the inner dimensions of a product differ");
    assert_eq!((a.rows(), k), (c.rows(), c.columns()), "the result of a product has another shape");
    if n == 0 && !accumulate {
        (0..c.rows()).for_each(|row| c.row_mut(row).fill(0.0));
    }
    let mut scratch = Vec::new();
    for rows in blocks(weight) {
        let (first, count) = (rows.start, rows.len());
        decode(weight, rows, &mut scratch);
        let block = Matrix::new(&scratch, count, k);
        gemm::nn(a.part(first, count), block, c.part(0, k), accumulate || first > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{nn, nt};
    use crate::gemm::{self, Matrix, MatrixMut};
    use crate::quant::packed::tests::{decoded, matrices};
    use crate::testing::{assert_close, in_f64, numbers, on_any_threads};

    #[test]
    fn products_are_those_of_the_decoded_matrix() {
        for (m, rows, columns) in [(0, 2, 3), (1, 1, 1), (5, 3, 7), (13, 50, 256), (3, 700, 480), (20, 1_100, 256)] {
            for packed in matrices(rows, columns) {
                let dense = decoded(&packed);
                let dense = Matrix::new(&dense, rows, columns);
                let (x, dy) = (numbers(7, m * columns), numbers(8, m * rows));
                let (x, dy) = (Matrix::new(&x, m, columns), Matrix::new(&dy, m, rows));
                for accumulate in [false, true] {
                    let before = |count| if accumulate { numbers(9, count) } else { vec![f32::NAN; count] };
                    let found = on_any_threads(|| {
                        let (mut y, mut dx) = (before(m * rows), before(m * columns));
                        nt(x, &packed, MatrixMut::new(&mut y, m, rows), accumulate);
                        nn(dy, &packed, MatrixMut::new(&mut dx, m, columns), accumulate);
                        vec![y, dx]
                    });
                    let (mut y, mut dx) = (before(m * rows), before(m * columns));
                    gemm::nt(x, dense, MatrixMut::new(&mut y, m, rows), accumulate);
                    gemm::nn(dy, dense, MatrixMut::new(&mut dx, m, columns), accumulate);
                    let what = format!("{m} · {rows} × {columns}, added {accumulate}");
                    assert_close(&found[0], &in_f64(&y), 1e-5, &what);
                    assert_close(&found[1], &in_f64(&dx), 1e-5, &what);
                }
            }
        }
    }
}
