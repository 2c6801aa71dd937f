//! A matrix that stays packed in memory, and whose rows are decoded where they are needed.

use std::ops::Range;

use super::decode::{decode, range};
use super::gguf::{DecodeError, GgufType};
use super::nf4::Nf4;
use crate::gemm::bf16::Rows;

/// Blocks that do not make up a matrix of the size asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Another number of values than the shape's.
    #[error("a matrix of {rows} × {columns} does not have {values} values")]
    Values {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
        /// The values given.
        values: usize,
    },
    /// A GGUF type without blocks.
    #[error("{0:?} is not a packed type")]
    Type(GgufType),
    /// The blocks themselves.
    #[error(transparent)]
    Blocks(#[from] DecodeError),
}

/// A weight `[rows, columns]` in 4-bit or 8-bit blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    blocks: Blocks,
}

#[derive(Clone, Debug, PartialEq)]
enum Blocks {
    Nf4(Nf4),
    Gguf(GgufType, Vec<u8>),
}

impl PackedMatrix {
    /// `values`, row-major.
    ///
    /// # Errors
    /// If they are not as many as the shape asks for.
    pub fn nf4(values: Nf4, rows: usize, columns: usize) -> Result<Self, PackError> {
        match rows.checked_mul(columns) == Some(values.len()) {
            true => Ok(Self { rows, columns, blocks: Blocks::Nf4(values) }),
            false => Err(PackError::Values { rows, columns, values: values.len() }),
        }
    }

    /// Blocks of a GGUF file as they are, each row a whole number of them.
    ///
    /// # Errors
    /// If the type has no blocks, or they do not make up rows of that size.
    pub fn gguf(kind: GgufType, bytes: Vec<u8>, rows: usize, columns: usize) -> Result<Self, PackError> {
        if kind.block_size() == 1 {
            return Err(PackError::Type(kind));
        }
        let expected = kind.bytes_of(columns)?.saturating_mul(rows);
        if bytes.len() != expected {
            let values = rows.saturating_mul(columns);
            return Err(DecodeError::Bytes { kind, values, expected, bytes: bytes.len() }.into());
        }
        Ok(Self { rows, columns, blocks: Blocks::Gguf(kind, bytes) })
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Its memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.blocks {
            Blocks::Nf4(values) => values.bytes(),
            Blocks::Gguf(_, bytes) => bytes.len(),
        }
    }

    /// Decodes all of it, row-major, on all threads.
    ///
    /// # Panics
    /// If `out` has another size.
    #[expect(clippy::expect_used, reason = "the bytes were checked when the matrix was made")]
    pub fn decode(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.columns, "there is room for another number of values");
        match &self.blocks {
            Blocks::Nf4(values) => values.decode(out),
            Blocks::Gguf(kind, bytes) => decode(*kind, bytes, out).expect("as many bytes as values"),
        }
    }

    /// Decodes values `first ..`, row-major, on this thread.
    pub(super) fn range(&self, first: usize, out: &mut [f32]) {
        match &self.blocks {
            Blocks::Nf4(values) => values.decode_range(first, out),
            Blocks::Gguf(kind, bytes) => range(*kind, bytes, first, out),
        }
    }
}

impl Rows for PackedMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn row<'s>(&'s self, row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32] {
        assert!(row < self.rows && columns.end <= self.columns && columns.len() == scratch.len());
        self.range(row * self.columns + columns.start, scratch);
        scratch
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{PackError, PackedMatrix};
    use crate::gemm::bf16::{self, Output, Rows};
    use crate::gemm::{self, Matrix, MatrixMut};
    use crate::quant::{DecodeError, GgufType, Nf4};
    use crate::testing::{assert_close, in_f64, numbers, on_any_threads};

    /// The matrix of made-up values in NF4, and with the same bytes for every block type that its width allows.
    pub(crate) fn matrices(rows: usize, columns: usize) -> Vec<PackedMatrix> {
        let values = Nf4::encode(&numbers(rows as u64, rows * columns)).unwrap();
        let mut all = vec![PackedMatrix::nf4(values, rows, columns).unwrap()];
        for kind in GgufType::ALL.into_iter().filter(|kind| kind.block_size() > 1) {
            let Ok(bytes) = kind.bytes_of(columns) else { continue };
            // No block of all ones, which would be infinite or not a number as a scale; small scales in any place.
            let bytes = (0..rows * bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 0x3b);
            all.push(PackedMatrix::gguf(kind, bytes.collect(), rows, columns).unwrap());
        }
        all
    }

    pub(crate) fn decoded(matrix: &PackedMatrix) -> Vec<f32> {
        let mut values = vec![f32::NAN; matrix.rows() * matrix.columns()];
        matrix.decode(&mut values);
        assert!(values.iter().all(|value| value.is_finite()));
        values
    }

    #[test]
    fn bf16_products_are_those_of_the_decoded_matrix_to_the_bit() {
        for (m, rows, columns) in [(1, 1, 1), (5, 3, 7), (9, 50, 33), (13, 131, 96), (70, 49, 256), (3, 40, 2_304)] {
            for packed in matrices(rows, columns) {
                let dense = decoded(&packed);
                let dense = Matrix::new(&dense, rows, columns);
                let x: Vec<_> = numbers(7, m * columns).into_iter().map(half::bf16::from_f32).collect();
                let dy: Vec<_> = numbers(8, m * rows).into_iter().map(half::bf16::from_f32).collect();
                let products = |weights: &[&dyn Rows]| {
                    let (mut y, mut dx) = (vec![f32::NAN; m * 2 * rows], vec![f32::NAN; m * columns]);
                    let x = Matrix::new(&x, m, columns);
                    bf16::nt(x, weights, &[], Output::F32(MatrixMut::new(&mut y, m, 2 * rows)));
                    let dy: Vec<_> = dy.chunks(rows).flat_map(|row| [row, row].concat()).collect();
                    let dy = Matrix::new(&dy, m, 2 * rows);
                    bf16::nn(dy, weights, Output::F32(MatrixMut::new(&mut dx, m, columns)));
                    (y, dx)
                };
                assert_eq!(products(&[&packed, &packed]), products(&[&dense, &dense]), "{m} · {rows} × {columns}");
            }
        }
    }

    #[test]
    fn f32_products_are_those_of_the_decoded_matrix() {
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
                        gemm::nt_rows(x, &packed, MatrixMut::new(&mut y, m, rows), accumulate);
                        gemm::nn_rows(dy, &packed, MatrixMut::new(&mut dx, m, columns), accumulate);
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

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let values = Nf4::encode(&[1.0; 12]).unwrap();
        assert_eq!(PackedMatrix::nf4(values.clone(), 3, 5), Err(PackError::Values { rows: 3, columns: 5, values: 12 }));
        assert!(PackedMatrix::nf4(values, usize::MAX, 2).is_err());
        let gguf = |kind, bytes, rows, columns| PackedMatrix::gguf(kind, vec![0; bytes], rows, columns).unwrap_err();
        assert_eq!(gguf(GgufType::F16, 8, 2, 2), PackError::Type(GgufType::F16));
        let values = DecodeError::Values { kind: GgufType::Q4_0, values: 48, block_size: 32 };
        assert_eq!(gguf(GgufType::Q4_0, 54, 2, 48), values.into());
        let bytes = DecodeError::Bytes { kind: GgufType::Q4_0, values: 128, expected: 72, bytes: 54 };
        assert_eq!(gguf(GgufType::Q4_0, 54, 2, 64), bytes.into());
    }

    #[test]
    fn four_bits_are_less_than_a_third_of_bf16() {
        let matrix = &matrices(64, 576)[0];
        assert!((matrix.bytes() as f64) < 0.3 * 2.0 * (64 * 576) as f64, "{}", matrix.bytes());
    }
}
