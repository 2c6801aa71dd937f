//! Packing operands as the tiles read them: pairs along the inner dimension, panels of columns.

use std::arch::x86_64::{
    __m256i, __m512, __m512i, __mmask16, __mmask32, _mm256_loadu_si256, _mm256_setzero_si256, _mm256_storeu_si256,
    _mm512_castsi256_si512, _mm512_castsi512_si256, _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_inserti64x4,
    _mm512_loadu_ps, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps,
    _mm512_permutexvar_epi16, _mm512_set_epi16, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_store_si512,
};
use std::ops::Range;

use half::bf16;

use super::tile::{COLUMNS, Pair, ROWS, VECTORS};
use crate::gemm::Matrix;
use crate::gemm::rows::{AHEAD, Rows, Stack};
use crate::gemm::transpose::transpose;

/// Packs rows `panel · COLUMNS ..` of a stack as the columns of one panel: `[pairs of inner, COLUMNS]`, zeros where the
/// stack has no more rows or `inner` ends with half a pair. `scratch` is grown for rows that are decoded.
///
/// # Safety
/// The processor has AVX512-BF16; `out` takes a whole panel at a multiple of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn transposed(
    stack: &Stack,
    panel: usize,
    inner: Range<usize>,
    scratch: &mut Vec<f32>,
    out: *mut Pair,
) {
    let length = inner.len();
    scratch.resize(16 * length, 0.0);
    for v in 0..VECTORS {
        let first = panel * COLUMNS + 16 * v;
        let mut scratch = scratch.as_mut_slice();
        let rows: [&[f32]; 16] = std::array::from_fn(|i| {
            let part = scratch.split_off_mut(..length).unwrap_or_default();
            if first + i < stack.rows() { stack.row(first + i, inner.clone(), part) } else { &[] }
        });
        // SAFETY: each row has `length` elements or none; the panel has room for 16 columns from here.
        unsafe { transpose_vector(&rows, length, out.add(16 * v)) };
    }
}

/// Sixteen rows of `length` elements (or none) as sixteen columns of a panel.
///
/// # Safety
/// As [`transposed`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn transpose_vector(rows: &[&[f32]; 16], length: usize, out: *mut Pair) {
    let whole = rows.iter().all(|row| row.len() == length);
    let mut from = 0;
    while from < length {
        let pairs = (length - from).div_ceil(2).min(16);
        // SAFETY: loads are within the rows or masked to what is left of them; `pairs` rows of the panel are left.
        unsafe {
            let converted: [__m512i; 16] = std::array::from_fn(|i| {
                let start = rows[i].as_ptr().wrapping_add(from);
                if whole && from + 32 <= length {
                    as_integers(_mm512_loadu_ps(start.add(16)), _mm512_loadu_ps(start))
                } else {
                    let left = rows[i].len().saturating_sub(from);
                    let low = _mm512_maskz_loadu_ps(first(left), start);
                    let high = _mm512_maskz_loadu_ps(first(left.saturating_sub(16)), start.wrapping_add(16));
                    as_integers(high, low)
                }
            });
            for (p, line) in transpose(converted).into_iter().enumerate().take(pairs) {
                _mm512_store_si512(out.add((from / 2 + p) * COLUMNS).cast(), line);
            }
        }
        from += 32;
    }
}

/// Packs rows `rows` of `b` (at most [`COLUMNS`]) as the columns of one panel: `[pairs of a row, COLUMNS]`, zeros beyond.
///
/// # Safety
/// The processor has AVX512-BF16; the rows hold whole pairs; `out` takes a whole panel at a multiple of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn right_transposed(b: &Matrix<bf16>, rows: Range<usize>, out: *mut Pair) {
    let pairs = b.columns() / 2;
    for v in 0..VECTORS {
        for from in (0..pairs).step_by(16) {
            let mask = first(pairs - from);
            let load = |i: usize| {
                let row = rows.start + 16 * v + i;
                if row >= rows.end {
                    return _mm512_setzero_si512();
                }
                // SAFETY: the mask leaves out what lies past the row.
                unsafe { _mm512_maskz_loadu_epi32(mask, b.row(row).as_ptr().cast::<i32>().add(from)) }
            };
            for (p, line) in transpose(std::array::from_fn(load)).into_iter().enumerate().take(pairs - from) {
                // SAFETY: the line lies within the panel.
                unsafe { _mm512_store_si512(out.add((from + p) * COLUMNS + 16 * v).cast(), line) };
            }
        }
    }
}

/// A mask of the first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1_u32 << count.min(16)) - 1) as __mmask16
}

/// 32 numbers rounded to bf16, `low` first.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn as_integers(high: __m512, low: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Packs columns `columns` of a stack, rows `inner`, as panels that lie `panel_pairs` pairs apart:
/// `[pairs of inner, COLUMNS]` each, zeros beyond.
///
/// # Safety
/// The processor has AVX512-BF16; `out`, at a multiple of 64 bytes, takes all panels, `panel_pairs` a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn plain(
    stack: &Stack,
    columns: Range<usize>,
    inner: Range<usize>,
    scratch: &mut Vec<f32>,
    out: *mut Pair,
    panel_pairs: usize,
) {
    let width = columns.len();
    scratch.resize(2 * width, 0.0);
    let (low_scratch, high_scratch) = scratch.split_at_mut(width);
    let interleave = interleaving();
    for (pair, row) in inner.clone().step_by(2).enumerate() {
        stack.expect(row + AHEAD, columns.clone());
        stack.expect(row + AHEAD + 1, columns.clone());
        let low = stack.row(row, columns.clone(), low_scratch);
        let high = if row + 1 < inner.end { stack.row(row + 1, columns.clone(), high_scratch) } else { &[] };
        for (v, from) in (0..width.next_multiple_of(COLUMNS)).step_by(16).enumerate() {
            // SAFETY: loads are masked to what is left of the rows; the vector belongs to panel v / VECTORS.
            unsafe {
                let load = |row: &[f32]| {
                    let left = row.len().saturating_sub(from);
                    match left {
                        0 => _mm512_setzero_ps(),
                        16.. => _mm512_loadu_ps(row.as_ptr().add(from)),
                        _ => _mm512_maskz_loadu_ps(first(left), row.as_ptr().add(from)),
                    }
                };
                let line = _mm512_permutexvar_epi16(interleave, as_integers(load(high), load(low)));
                let at = v / VECTORS * panel_pairs + pair * COLUMNS + v % VECTORS * 16;
                _mm512_store_si512(out.add(at).cast(), line);
            }
        }
    }
}

/// Positions that put the first and the second half of 32 numbers into turns: 0, 16, 1, 17, …
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn interleaving() -> __m512i {
    _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0,
    )
}

/// Sixteen columns from `column` of rows `row` and `row + 1`, in turns; zeros outside of the matrix and past `end`.
///
/// # Safety
/// The processor has AVX-512 with BW and VL.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn interleaved(
    m: &Matrix<bf16>,
    row: usize,
    end: usize,
    column: usize,
    interleave: __m512i,
) -> __m512i {
    let load = |row: usize| -> __m256i {
        if row >= end || column >= m.columns() {
            return _mm256_setzero_si256();
        }
        let values = &m.row(row)[column..];
        // SAFETY: sixteen elements are there, or the mask leaves out those that are not.
        unsafe {
            if values.len() >= 16 {
                _mm256_loadu_si256(values.as_ptr().cast())
            } else {
                let mask = (1_u32 << values.len()) - 1;
                _mm512_castsi512_si256(_mm512_maskz_loadu_epi16(mask as __mmask32, values.as_ptr().cast()))
            }
        }
    };
    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(row)), load(row + 1));
    _mm512_permutexvar_epi16(interleave, both)
}

/// Packs columns `panel · COLUMNS ..` of rows `inner` of `b` as a panel `[pairs of inner, COLUMNS]`, zeros beyond.
///
/// # Safety
/// The processor has AVX512-BF16; `out` takes a whole panel at a multiple of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn right(b: &Matrix<bf16>, panel: usize, inner: Range<usize>, out: *mut Pair) {
    let interleave = interleaving();
    let columns = panel * COLUMNS..b.columns().min((panel + 1) * COLUMNS);
    for (pair, row) in inner.clone().step_by(2).enumerate() {
        b.expect(row + AHEAD, columns.clone());
        b.expect(row + AHEAD + 1, columns.clone());
        for v in 0..VECTORS {
            // SAFETY: the vector lies within the panel.
            unsafe {
                let line = interleaved(b, row, inner.end, panel * COLUMNS + 16 * v, interleave);
                _mm512_store_si512(out.add(pair * COLUMNS + 16 * v).cast(), line);
            }
        }
    }
}

/// Packs columns `columns` of rows `inner` of `a` as the rows of tiles: blocks of [`ROWS`] columns as
/// `[pairs of inner, ROWS]`, `block_pairs` pairs apart. `columns` starts at `columns.start` of the matrix; past its end
/// within the last block lies what the matrix has there, or zeros.
///
/// # Safety
/// The processor has AVX512-BF16; `out` takes an even number of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) unsafe fn left(
    a: &Matrix<bf16>,
    columns: Range<usize>,
    inner: Range<usize>,
    out: *mut Pair,
    block_pairs: usize,
) {
    let interleave = interleaving();
    for (pair, row) in inner.clone().step_by(2).enumerate() {
        a.expect(row + AHEAD, columns.clone());
        a.expect(row + AHEAD + 1, columns.clone());
        for (twice, column) in columns.clone().step_by(2 * ROWS).enumerate() {
            // SAFETY: both halves lie within their blocks.
            unsafe {
                let line = interleaved(a, row, inner.end, column, interleave);
                let at = out.add(2 * twice * block_pairs + pair * ROWS);
                _mm256_storeu_si256(at.cast(), _mm512_castsi512_si256(line));
                _mm256_storeu_si256(at.add(block_pairs).cast(), _mm512_extracti64x4_epi64::<1>(line));
            }
        }
    }
}
