//! Views of row-major matrices.

use std::ops::Range;

/// A row-major matrix whose rows may lie further apart than they are long (a range of columns of a fused weight).
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

/// A [`Matrix`] to write into.
#[derive(Debug)]
pub struct MatrixMut<'a, T = f32> {
    data: &'a mut [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

/// Panics unless `rows` rows of `columns`, `row_stride` apart, lie within `len`.
fn check(len: usize, rows: usize, columns: usize, row_stride: usize) {
    assert!(row_stride >= columns, "rows of {columns} columns overlap at a stride of {row_stride}");
    if rows > 0 && columns > 0 {
        let needed = (rows - 1).checked_mul(row_stride).and_then(|last| last.checked_add(columns));
        assert!(
            needed.is_some_and(|needed| needed <= len),
            "a matrix of {rows} rows of {columns} columns with a stride of {row_stride} does not fit {len} elements"
        );
    }
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// `data` as `[rows, columns]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::with_stride(data, rows, columns, columns)
    }

    /// `data` as `[rows, columns]` where row `i` starts at `i · row_stride`.
    ///
    /// # Panics
    /// If `data` is too short or `row_stride < columns`.
    pub fn with_stride(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        check(data.len(), rows, columns, row_stride);
        Self { data, rows, columns, row_stride }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The element at (`row`, `column`).
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, row: usize, column: usize) -> T {
        assert!(row < self.rows && column < self.columns);
        self.data[row * self.row_stride + column]
    }

    /// Row `row` as a slice.
    ///
    /// # Panics
    /// If there is none.
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows);
        let start = if self.columns == 0 { 0 } else { row * self.row_stride };
        &self.data[start..start + self.columns]
    }

    /// Rows `first..first + count`.
    pub(crate) fn rows_from(&self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows);
        let data = self.data.get(first * self.row_stride..).unwrap_or_default();
        Self::with_stride(data, count, self.columns, self.row_stride)
    }

    /// Says that columns `columns` of row `row` will be read soon; a row that does not exist is passed over.
    #[inline(always)]
    pub(crate) fn expect(&self, row: usize, columns: Range<usize>) {
        if row < self.rows {
            crate::prefetch::expect(&self.row(row)[columns]);
        }
    }

    pub(crate) fn row_stride(&self) -> isize {
        self.row_stride as isize
    }

    pub(crate) fn as_ptr(&self) -> *const T {
        self.data.as_ptr()
    }
}

impl<'a> Matrix<'a> {
    pub(crate) fn strided(self) -> Strided<'a> {
        Strided {
            data: self.data,
            rows: self.rows,
            columns: self.columns,
            row_stride: self.row_stride as isize,
            column_stride: 1,
        }
    }
}

impl<'a, T: Copy> MatrixMut<'a, T> {
    /// `data` as `[rows, columns]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a mut [T], rows: usize, columns: usize) -> Self {
        Self::with_stride(data, rows, columns, columns)
    }

    /// `data` as `[rows, columns]` where row `i` starts at `i · row_stride`.
    ///
    /// # Panics
    /// If `data` is too short or `row_stride < columns`.
    pub fn with_stride(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        check(data.len(), rows, columns, row_stride);
        Self { data, rows, columns, row_stride }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `row` as a slice.
    ///
    /// # Panics
    /// If there is none.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        let start = if self.columns == 0 { 0 } else { row * self.row_stride };
        &mut self.data[start..start + self.columns]
    }

    /// All rows, in their order.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        // Of rows without elements there are none to write to.
        let rows = if self.columns == 0 { 0 } else { self.rows };
        self.data.chunks_mut(self.row_stride.max(1)).take(rows).map(|row| &mut row[..self.columns])
    }

    pub(crate) fn row_stride(&self) -> isize {
        self.row_stride as isize
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.data.as_mut_ptr()
    }
}

/// A matrix that may also be a transpose. Made from a checked [`Matrix`] only, so every element lies within `data`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

impl Strided<'_> {
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn row_stride(&self) -> isize {
        self.row_stride
    }

    pub(crate) fn column_stride(&self) -> isize {
        self.column_stride
    }

    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }
}
