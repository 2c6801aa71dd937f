//! f32 products with a packed matrix, which is decoded while the product packs it: nothing dense of its size exists.

use super::packed::PackedMatrix;
use crate::gemm::{self, Matrix, MatrixMut};

/// `c[m, n] = a[m, k] · weight[n, k]ᵀ`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nt(a: Matrix, weight: &PackedMatrix, c: MatrixMut, accumulate: bool) {
    gemm::nt_rows(a, weight, c, accumulate);
}

/// `c[m, k] = a[m, n] · weight[n, k]`, added to what `c` holds if `accumulate`.
///
/// # Panics
/// If the shapes do not fit.
pub fn nn(a: Matrix, weight: &PackedMatrix, c: MatrixMut, accumulate: bool) {
    gemm::nn_rows(a, weight, c, accumulate);
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
