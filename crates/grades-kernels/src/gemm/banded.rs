//! Small products within the cache, on the calling thread, that leave out what a mask hides.
//!
//! The blocks of attention are too small for the packing of a general product to pay, and half of a causal block need
//! not be computed. Each tile of rows therefore names the ranges that it needs.

use std::ops::Range;

use super::matrix::{Matrix, MatrixMut, Strided};
use crate::dispatch::BASELINE_FMA;
use crate::math::mul_add;

/// Rows of a tile. With 16 columns its sums fill twelve AVX2 registers of sixteen; with 32, twelve of AVX-512.
pub(crate) const TILE_ROWS: usize = 6;

/// What a tile of rows needs of a product.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    /// The part of the inner dimension that is summed.
    pub(crate) inner: Range<usize>,
    /// The columns that are written.
    pub(crate) columns: Range<usize>,
}

/// `c = a · b`, or `c += a · b` if `accumulate`, where `band` says for the rows of each tile what is computed; the
/// other elements of `c` stay as they are.
///
/// # Panics
/// If the shapes do not fit or a band lies outside of them.
pub(crate) fn banded(a: Strided, b: Matrix, mut c: MatrixMut, accumulate: bool, band: impl Fn(Range<usize>) -> Band) {
    assert_eq!(a.columns(), b.rows(), "the inner dimensions of a product differ");
    assert_eq!((a.rows(), b.columns()), (c.rows(), c.columns()), "the result of a product has another shape");
    let run = tile_runner();
    for first_row in (0..a.rows()).step_by(TILE_ROWS) {
        let rows = first_row..a.rows().min(first_row + TILE_ROWS);
        let Band { inner, columns } = band(rows.clone());
        if columns.is_empty() {
            continue;
        }
        assert!(inner.start <= inner.end && inner.end <= a.columns() && columns.end <= b.columns());
        let size = Size { rows: rows.len(), inner: inner.len(), columns: columns.len(), accumulate };
        // SAFETY: the views' constructors have checked that every element of `a`, `b` and `c` lies within its slice, the
        // assertion that the band lies within them; so the offsets are within the slices, as are all elements that
        // `size` and the strides reach from there. `tile_runner` has detected the features its choice needs.
        unsafe {
            run(
                size,
                Operand {
                    start: a
                        .as_ptr()
                        .offset(rows.start as isize * a.row_stride() + inner.start as isize * a.column_stride()),
                    row_stride: a.row_stride(),
                    column_stride: a.column_stride(),
                },
                b.as_ptr().offset(inner.start as isize * b.row_stride() + columns.start as isize),
                b.row_stride(),
                c.as_mut_ptr().offset(rows.start as isize * c.row_stride() + columns.start as isize),
                c.row_stride(),
            );
        }
    }
}

/// Sizes of one tile of rows: `rows ≤ TILE_ROWS`.
#[derive(Clone, Copy)]
struct Size {
    rows: usize,
    inner: usize,
    columns: usize,
    accumulate: bool,
}

/// The left operand, which may be a transpose.
#[derive(Clone, Copy)]
struct Operand {
    start: *const f32,
    row_stride: isize,
    column_stride: isize,
}

type TileRunner = unsafe fn(Size, Operand, *const f32, isize, *mut f32, isize);

/// The version for this processor.
fn tile_runner() -> TileRunner {
    #[cfg(target_arch = "x86_64")]
    match crate::dispatch::level() {
        crate::dispatch::Level::Avx512 => return run_avx512,
        crate::dispatch::Level::Avx2 => return run_avx2,
        crate::dispatch::Level::Baseline => {}
    }
    run::<BASELINE_FMA, 16>
}

/// # Safety
/// As [`run`], and the processor must have the features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_avx512(size: Size, a: Operand, b: *const f32, b_stride: isize, c: *mut f32, c_stride: isize) {
    // SAFETY: passed on.
    unsafe { run::<true, 32>(size, a, b, b_stride, c, c_stride) }
}

/// # Safety
/// As [`run`], and the processor must have the features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(size: Size, a: Operand, b: *const f32, b_stride: isize, c: *mut f32, c_stride: isize) {
    // SAFETY: passed on.
    unsafe { run::<true, 16>(size, a, b, b_stride, c, c_stride) }
}

/// A tile of rows with the widest tile of columns being `WIDE`.
///
/// # Safety
/// `a` must reach `rows × inner` elements, `b` `inner × columns` and `c` `rows × columns`, with their strides, and `c`
/// must not overlap the others.
#[inline(always)]
unsafe fn run<const FMA: bool, const WIDE: usize>(
    size: Size,
    a: Operand,
    b: *const f32,
    b_stride: isize,
    c: *mut f32,
    c_stride: isize,
) {
    // SAFETY: passed on; each arm handles exactly `size.rows` rows.
    unsafe {
        match size.rows {
            1 => columns::<FMA, 1, WIDE>(size, a, b, b_stride, c, c_stride),
            2 => columns::<FMA, 2, WIDE>(size, a, b, b_stride, c, c_stride),
            3 => columns::<FMA, 3, WIDE>(size, a, b, b_stride, c, c_stride),
            4 => columns::<FMA, 4, WIDE>(size, a, b, b_stride, c, c_stride),
            5 => columns::<FMA, 5, WIDE>(size, a, b, b_stride, c, c_stride),
            _ => columns::<FMA, TILE_ROWS, WIDE>(size, a, b, b_stride, c, c_stride),
        }
    }
}

/// # Safety
/// As [`run`], with `ROWS` rows.
#[inline(always)]
unsafe fn columns<const FMA: bool, const ROWS: usize, const WIDE: usize>(
    size: Size,
    a: Operand,
    b: *const f32,
    b_stride: isize,
    c: *mut f32,
    c_stride: isize,
) {
    let mut column = 0;
    // SAFETY: each tile stays within the columns that are left.
    unsafe {
        while column + WIDE <= size.columns {
            tile::<FMA, ROWS, WIDE>(size, a, b.add(column), b_stride, c.add(column), c_stride);
            column += WIDE;
        }
        while column + 8 <= size.columns {
            tile::<FMA, ROWS, 8>(size, a, b.add(column), b_stride, c.add(column), c_stride);
            column += 8;
        }
        while column < size.columns {
            tile::<FMA, ROWS, 1>(size, a, b.add(column), b_stride, c.add(column), c_stride);
            column += 1;
        }
    }
}

/// # Safety
/// As [`run`], with `ROWS` rows and `COLUMNS` columns.
#[inline(always)]
unsafe fn tile<const FMA: bool, const ROWS: usize, const COLUMNS: usize>(
    size: Size,
    a: Operand,
    b: *const f32,
    b_stride: isize,
    c: *mut f32,
    c_stride: isize,
) {
    let mut sums = [[0.0_f32; COLUMNS]; ROWS];
    for p in 0..size.inner as isize {
        // SAFETY: row `p` of `b` has `COLUMNS` elements from here; `[f32; N]` needs no more alignment than `f32`.
        let b_row = unsafe { &*b.offset(p * b_stride).cast::<[f32; COLUMNS]>() };
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `i < ROWS` and `p < inner`, which `a` reaches.
            let factor = unsafe { *a.start.offset(i as isize * a.row_stride + p * a.column_stride) };
            for (sum, b) in sums.iter_mut().zip(b_row) {
                *sum = mul_add::<FMA>(factor, *b, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: row `i` of `c` has `COLUMNS` elements from here, which nothing else borrows.
        let c_row = unsafe { &mut *c.offset(i as isize * c_stride).cast::<[f32; COLUMNS]>() };
        for (c, sum) in c_row.iter_mut().zip(sums) {
            *c = if size.accumulate { *c + sum } else { *sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Band, Operand, Size, TILE_ROWS, TileRunner, banded, run};
    use crate::gemm::{Matrix, MatrixMut};
    use crate::testing::{assert_close, in_f64, numbers};

    /// What the bands ask for, in f64, over what `c` holds.
    fn reference(a: Matrix, b: Matrix, c: &[f32], accumulate: bool, band: impl Fn(usize) -> Band) -> Vec<f64> {
        let mut out = in_f64(c);
        for (i, out) in out.chunks_mut(b.columns().max(1)).enumerate().take(a.rows()) {
            let Band { inner, columns } = band(i / TILE_ROWS);
            for j in columns {
                let sum: f64 = inner.clone().map(|p| f64::from(a.at(i, p)) * f64::from(b.at(p, j))).sum();
                out[j] = if accumulate { out[j] + sum } else { sum };
            }
        }
        out
    }

    #[test]
    fn bands_are_computed_and_the_rest_is_left() {
        for (m, n, k) in [(0, 4, 4), (1, 1, 1), (5, 40, 7), (13, 70, 64), (48, 96, 64), (6, 33, 0)] {
            let (a, b, before) = (numbers(1, m * k), numbers(2, k * n), numbers(3, m * n));
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let band = |tile: usize| Band { inner: tile.min(k)..k, columns: 0..n.min(17 * (tile + 1)) };
            for accumulate in [false, true] {
                let mut c = before.clone();
                let rows_band = |rows: std::ops::Range<usize>| band(rows.start / TILE_ROWS);
                banded(a.strided(), b, MatrixMut::new(&mut c, m, n), accumulate, rows_band);
                let expected = reference(a, b, &before, accumulate, band);
                assert_close(&c, &expected, 3e-6, &format!("{m}×{n}×{k}"));
            }
        }
    }

    #[test]
    fn every_version_computes_the_same() {
        // Also those for instruction sets that this processor lacks, compiled here without them.
        let versions: [TileRunner; 3] = [run::<false, 16>, run::<true, 16>, run::<true, 32>];
        for (rows, columns, inner) in [(6, 32, 5), (6, 71, 9), (1, 40, 3), (4, 8, 2), (5, 1, 4), (3, 30, 1)] {
            let (a, b) = (numbers(1, rows * inner), numbers(2, inner * columns));
            let whole = Band { inner: 0..inner, columns: 0..columns };
            let zeros = vec![0.0; rows * columns];
            let (a_view, b_view) = (Matrix::new(&a, rows, inner), Matrix::new(&b, inner, columns));
            let expected = reference(a_view, b_view, &zeros, false, |_| whole.clone());
            for version in versions {
                let mut c = vec![f32::NAN; rows * columns];
                let size = Size { rows, inner, columns, accumulate: false };
                let operand = Operand { start: a.as_ptr(), row_stride: inner as isize, column_stride: 1 };
                let columns = columns as isize;
                // SAFETY: the three buffers have the sizes and strides that are stated.
                unsafe { version(size, operand, b.as_ptr(), columns, c.as_mut_ptr(), columns) };
                assert_close(&c, &expected, 1e-6, &format!("{rows}×{columns}×{inner}"));
            }
        }
    }
}
