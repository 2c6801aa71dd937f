//! The innermost loop: one tile of the result in registers.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16, _mm256_storeu_si256,
    _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_load_si512,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_slli_epi32, _mm512_storeu_ps,
};

use half::bf16;

/// Rows of a tile.
pub(super) const ROWS: usize = 8;
/// Vectors of a tile's row. 8 × 3 sums leave registers for three vectors of `b` and the broadcast pair of `a`.
pub(super) const VECTORS: usize = 3;
/// Columns of a tile, and of a packed panel.
pub(super) const COLUMNS: usize = 16 * VECTORS;

/// Two neighbours along the inner dimension, which one instruction multiplies and adds.
pub(super) type Pair = u32;

/// The left operand of a tile: pair `p` of row `i` lies at `start + i · row_stride + p · pair_stride` (in elements).
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) start: *const bf16,
    pub(super) row_stride: usize,
    pub(super) pair_stride: usize,
}

/// Where a tile goes.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// `c` in place of what is there, or added to it.
    F32 { c: *mut f32, row_stride: usize, accumulate: bool },
    /// Likewise, rounded.
    Bf16 { c: *mut bf16, row_stride: usize, accumulate: bool },
}

impl Target {
    /// The same, `rows` and `columns` further.
    ///
    /// # Safety
    /// The result must stay within the matrix.
    #[inline(always)]
    pub(super) unsafe fn at(self, rows: usize, columns: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::F32 { c, row_stride, accumulate } => {
                    Self::F32 { c: c.add(rows * row_stride + columns), row_stride, accumulate }
                }
                Self::Bf16 { c, row_stride, accumulate } => {
                    Self::Bf16 { c: c.add(rows * row_stride + columns), row_stride, accumulate }
                }
            }
        }
    }
}

/// `rows ≤ ROWS` rows and `columns ≤ COLUMNS` columns of the result: the sum over `pairs` pairs of `a` times the packed
/// panel `b` `[pairs, COLUMNS]`, plus `bias [columns]` unless that is null.
///
/// # Safety
/// The processor has AVX512-BF16 (with F, BW and VL). `a` reaches `rows` rows of `pairs` pairs, `b` a whole panel at an
/// address that is a multiple of 64, `bias` (unless null) and each row of `target` `columns` elements; nothing else
/// reads or writes that part of the target.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn tile(
    (rows, columns): (usize, usize),
    pairs: usize,
    a: Left,
    b: *const Pair,
    bias: *const f32,
    target: Target,
) {
    // SAFETY: passed on; each arm handles exactly `rows` rows.
    unsafe {
        match rows {
            1 => fixed::<1>(columns, pairs, a, b, bias, target),
            2 => fixed::<2>(columns, pairs, a, b, bias, target),
            3 => fixed::<3>(columns, pairs, a, b, bias, target),
            4 => fixed::<4>(columns, pairs, a, b, bias, target),
            5 => fixed::<5>(columns, pairs, a, b, bias, target),
            6 => fixed::<6>(columns, pairs, a, b, bias, target),
            7 => fixed::<7>(columns, pairs, a, b, bias, target),
            _ => fixed::<ROWS>(columns, pairs, a, b, bias, target),
        }
    }
}

/// # Safety
/// As [`tile`], with `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn fixed<const R: usize>(
    columns: usize,
    pairs: usize,
    a: Left,
    b: *const Pair,
    bias: *const f32,
    target: Target,
) {
    // SAFETY: the offsets stay within what the caller promised for `a`, `b` and `bias`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
        if !bias.is_null() {
            let bias: [__m512; VECTORS] =
                std::array::from_fn(|v| _mm512_maskz_loadu_ps(mask(columns, v), bias.wrapping_add(16 * v)));
            sums = [bias; R];
        }
        let (mut start, mut b) = (a.start, b.cast::<__m512i>());
        for _ in 0..pairs {
            let right: [__m512i; VECTORS] = std::array::from_fn(|v| _mm512_load_si512(b.add(v)));
            for (i, sums) in sums.iter_mut().enumerate() {
                // Pairs may start at any element.
                let pair = start.add(i * a.row_stride).cast::<Pair>().read_unaligned();
                let left = _mm512_set1_epi32(pair.cast_signed());
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbf16_ps(*sum, as_bf16(left), as_bf16(right));
                }
            }
            start = start.wrapping_add(a.pair_stride);
            b = b.wrapping_add(VECTORS);
        }
        for (i, sums) in sums.iter().enumerate() {
            store(columns, sums, target.at(i, 0));
        }
    }
}

/// The columns of vector `v` that lie within the first `columns`.
#[inline(always)]
fn mask(columns: usize, v: usize) -> __mmask16 {
    let count = columns.saturating_sub(16 * v).min(16);
    ((1_u32 << count) - 1) as __mmask16
}

#[inline(always)]
fn as_bf16(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute(x) }
}

/// The bf16 numbers at `c` that `mask` names, in f32.
///
/// # Safety
/// The processor has AVX-512 with BW and VL; the named numbers can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn widened(c: *const bf16, mask: __mmask16) -> __m512 {
    // SAFETY: the caller's promise.
    let short = unsafe { _mm256_maskz_loadu_epi16(mask, c.cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(short)))
}

/// One row of a tile.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn store(columns: usize, sums: &[__m512; VECTORS], target: Target) {
    // SAFETY: the target's row has `columns` elements; masks leave out the rest of the vectors.
    unsafe {
        match target {
            Target::F32 { c, accumulate, .. } => {
                for (v, &sum) in sums.iter().enumerate() {
                    let (c, mask) = (c.wrapping_add(16 * v), mask(columns, v));
                    if mask == __mmask16::MAX {
                        let sum = if accumulate { _mm512_add_ps(sum, _mm512_loadu_ps(c)) } else { sum };
                        _mm512_storeu_ps(c, sum);
                    } else {
                        let sum = if accumulate { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, c)) } else { sum };
                        _mm512_mask_storeu_ps(c, mask, sum);
                    }
                }
            }
            Target::Bf16 { c, accumulate, .. } => {
                for (v, &sum) in sums.iter().enumerate() {
                    let (c, mask) = (c.wrapping_add(16 * v), mask(columns, v));
                    let sum = if accumulate { _mm512_add_ps(sum, widened(c, mask)) } else { sum };
                    let rounded = std::mem::transmute::<std::arch::x86_64::__m256bh, std::arch::x86_64::__m256i>(
                        _mm512_cvtneps_pbh(sum),
                    );
                    if mask == __mmask16::MAX {
                        _mm256_storeu_si256(c.cast(), rounded);
                    } else {
                        _mm256_mask_storeu_epi16(c.cast(), mask, rounded);
                    }
                }
            }
        }
    }
}
