//! The rows of a weight, however they are stored, and weights stacked upon one another.

use std::fmt::Debug;
use std::ops::Range;

use half::bf16;

use super::matrix::Matrix;
use crate::element::convert;

/// A matrix `[rows, columns]`, such as a weight, whose rows can be read as f32.
pub trait Rows: Sync + Debug {
    /// The number of rows.
    fn rows(&self) -> usize;

    /// The number of columns.
    fn columns(&self) -> usize;

    /// Elements `columns` of row `row`: a part of the matrix itself, or decoded into `scratch`, which is as long as
    /// the range.
    ///
    /// # Panics
    /// If there is no such part of a row.
    fn row<'s>(&'s self, row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32];

    /// Says that elements `columns` of row `row` will be read soon. A row that does not exist is passed over.
    fn expect(&self, _row: usize, _columns: Range<usize>) {}

    /// The matrix itself, where it lies in memory as it is.
    fn dense(&self) -> Option<Matrix<'_>> {
        None
    }
}

impl Rows for Matrix<'_> {
    fn rows(&self) -> usize {
        Matrix::rows(self)
    }

    fn columns(&self) -> usize {
        Matrix::columns(self)
    }

    fn row<'s>(&'s self, row: usize, columns: Range<usize>, _: &'s mut [f32]) -> &'s [f32] {
        &Matrix::row(self, row)[columns]
    }

    fn expect(&self, row: usize, columns: Range<usize>) {
        Matrix::expect(self, row, columns);
    }

    fn dense(&self) -> Option<Matrix<'_>> {
        Some(*self)
    }
}

impl Rows for Matrix<'_, bf16> {
    fn rows(&self) -> usize {
        Matrix::rows(self)
    }

    fn columns(&self) -> usize {
        Matrix::columns(self)
    }

    fn row<'s>(&'s self, row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32] {
        convert(&Matrix::row(self, row)[columns], scratch);
        scratch
    }

    fn expect(&self, row: usize, columns: Range<usize>) {
        Matrix::expect(self, row, columns);
    }
}

/// Some rows of a matrix, one behind another.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    of: &'a dyn Rows,
    first: usize,
    rows: usize,
}

impl<'a> Span<'a> {
    /// # Panics
    /// If there are no such rows.
    pub(crate) fn new(of: &'a dyn Rows, first: usize, rows: usize) -> Self {
        assert!(first + rows <= of.rows(), "a matrix does not have rows {first} to {}", first + rows);
        Self { of, first, rows }
    }
}

impl Rows for Span<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.of.columns()
    }

    fn row<'s>(&'s self, row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32] {
        self.of.row(self.first + row, columns, scratch)
    }

    fn expect(&self, row: usize, columns: Range<usize>) {
        if row < self.rows {
            self.of.expect(self.first + row, columns);
        }
    }

    fn dense(&self) -> Option<Matrix<'_>> {
        self.of.dense().map(|matrix| matrix.rows_from(self.first, self.rows))
    }
}

/// Rows that are asked for ahead of the one that is packed: a trip to the memory takes as long as packing some of them.
pub(super) const AHEAD: usize = 16;

/// Weights of the same width as one matrix, the rows of the first on top.
#[derive(Debug)]
pub(super) struct Stack<'a> {
    weights: &'a [&'a dyn Rows],
    rows: usize,
}

impl<'a> Stack<'a> {
    pub(super) fn new(weights: &'a [&'a dyn Rows]) -> Self {
        let same = weights.windows(2).all(|pair| pair[0].columns() == pair[1].columns());
        assert!(same, "weights of different widths do not stack");
        Self { weights, rows: weights.iter().map(|weight| weight.rows()).sum() }
    }
}

impl Rows for Stack<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.weights.first().map_or(0, |weight| weight.columns())
    }

    fn row<'s>(&'s self, mut row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32] {
        for weight in self.weights {
            if row < weight.rows() {
                return weight.row(row, columns, scratch);
            }
            row -= weight.rows();
        }
        panic_outside(row)
    }

    fn expect(&self, mut row: usize, columns: Range<usize>) {
        for weight in self.weights {
            if row < weight.rows() {
                return weight.expect(row, columns);
            }
            row -= weight.rows();
        }
    }
}

#[cold]
#[expect(clippy::panic, reason = "a row outside of the stack is a mistake of this crate, as an index out of bounds")]
fn panic_outside(row: usize) -> ! {
    panic!("row {row} lies below the stacked weights")
}

#[cfg(test)]
pub(super) mod testing {
    use std::ops::Range;

    use super::{Matrix, Rows};

    /// A weight that is decoded: every value is a factor times what is stored.
    #[derive(Debug)]
    pub(in crate::gemm) struct Scaled<'a>(pub(in crate::gemm) f32, pub(in crate::gemm) Matrix<'a>);

    impl Rows for Scaled<'_> {
        fn rows(&self) -> usize {
            self.1.rows()
        }

        fn columns(&self) -> usize {
            self.1.columns()
        }

        fn row<'s>(&'s self, row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32] {
            scratch.iter_mut().zip(&self.1.row(row)[columns]).for_each(|(out, value)| *out = self.0 * value);
            scratch
        }
    }
}
