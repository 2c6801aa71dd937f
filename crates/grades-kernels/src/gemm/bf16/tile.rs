//! The innermost loop: one tile of the result in registers.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16, _mm256_storeu_si256,
    _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_load_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
};

use half::bf16;

/// Rows of a tile.
pub(crate) const ROWS: usize = 8;
/// Vectors of a tile's row. 8 × 3 sums leave registers for three vectors of `b` and the broadcast pair of `a`.
pub(crate) const VECTORS: usize = 3;
/// Columns of a tile, and of a packed panel.
pub(crate) const COLUMNS: usize = 16 * VECTORS;

/// Two neighbours along the inner dimension, which one instruction multiplies and adds.
pub(crate) type Pair = u32;

/// The left operand of a tile: pair `p` of row `i` lies at `start + i · row_stride + p · pair_stride` (in elements).
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) start: *const bf16,
    pub(crate) row_stride: usize,
    pub(crate) pair_stride: usize,
}

/// Where a tile goes.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// `c` in place of what is there; plus `add`, whose rows are as far apart, unless that is null. It may be `c` itself.
    F32 { c: *mut f32, row_stride: usize, add: *const f32 },
    /// Rounded, in place of what is there or added to it.
    Bf16 { c: *mut bf16, row_stride: usize, accumulate: bool },
}

impl Target {
    /// The same, `rows` and `columns` further.
    ///
    /// # Safety
    /// The result must stay within the matrix.
    #[inline(always)]
    pub(crate) unsafe fn at(self, rows: usize, columns: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::F32 { c, row_stride, add } => {
                    let offset = rows * row_stride + columns;
                    Self::F32 { c: c.add(offset), row_stride, add: if add.is_null() { add } else { add.add(offset) } }
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
pub(crate) unsafe fn tile(
    (rows, columns): (usize, usize),
    pairs: usize,
    a: Left,
    b: *const Pair,
    bias: *const f32,
    target: Target,
) {
    // SAFETY: passed on.
    unsafe {
        match columns.div_ceil(16) {
            ..=1 => by_rows::<1>(rows, columns, pairs, a, b, bias, target),
            2 => by_rows::<2>(rows, columns, pairs, a, b, bias, target),
            _ => by_rows::<VECTORS>(rows, columns, pairs, a, b, bias, target),
        }
    }
}

/// # Safety
/// As [`tile`], with at most `V` vectors of columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn by_rows<const V: usize>(
    rows: usize,
    columns: usize,
    pairs: usize,
    a: Left,
    b: *const Pair,
    bias: *const f32,
    target: Target,
) {
    // SAFETY: passed on; each arm handles exactly `rows` rows.
    unsafe {
        match rows {
            1 => fixed::<1, V>(columns, pairs, a, b, bias, target),
            2 => fixed::<2, V>(columns, pairs, a, b, bias, target),
            3 => fixed::<3, V>(columns, pairs, a, b, bias, target),
            4 => fixed::<4, V>(columns, pairs, a, b, bias, target),
            5 => fixed::<5, V>(columns, pairs, a, b, bias, target),
            6 => fixed::<6, V>(columns, pairs, a, b, bias, target),
            7 => fixed::<7, V>(columns, pairs, a, b, bias, target),
            _ => fixed::<ROWS, V>(columns, pairs, a, b, bias, target),
        }
    }
}

/// `$body` for each row of a tile of `$count`, with `$row` as a constant. A loop over the sums would make an array in memory of
/// them, which the inner loop then writes again and again; only constants as indices keep them in registers for certain.
macro_rules! each_row {
    ($count:ident, $row:ident => $body:expr) => {
        each_row!(@ $count, $row => $body, 0 1 2 3 4 5 6 7)
    };
    (@ $count:ident, $row:ident => $body:expr, $($index:literal)*) => {$(
        if $index < $count {
            const $row: usize = $index;
            $body
        }
    )*};
}

/// # Safety
/// As [`tile`], with `R` rows and at most `V` vectors of columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn fixed<const R: usize, const V: usize>(
    columns: usize,
    pairs: usize,
    a: Left,
    b: *const Pair,
    bias: *const f32,
    target: Target,
) {
    const { assert!(R <= ROWS && ROWS == 8 && V <= VECTORS && VECTORS == 3) };
    let masks = [mask(columns, 0), mask(columns, 1), mask(columns, 2)];
    // SAFETY: the offsets stay within what the caller promised for `a`, `b`, `bias` and `target`; masks leave out what
    // lies past the columns.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        if !bias.is_null() {
            let load = |v: usize| _mm512_maskz_loadu_ps(masks[v], bias.wrapping_add(16 * v));
            sums = [[load(0), load(1), load(2)]; ROWS];
        }
        let (mut start, mut b) = (a.start, b.cast::<__m512i>());
        for _ in 0..pairs {
            let right = [_mm512_load_si512(b), _mm512_load_si512(b.add(1)), _mm512_load_si512(b.add(2))];
            each_row!(R, I => {
                // Pairs may start at any element.
                let pair = start.add(I * a.row_stride).cast::<Pair>().read_unaligned();
                let left = as_bf16(_mm512_set1_epi32(pair.cast_signed()));
                sums[I][0] = _mm512_dpbf16_ps(sums[I][0], left, as_bf16(right[0]));
                if V > 1 {
                    sums[I][1] = _mm512_dpbf16_ps(sums[I][1], left, as_bf16(right[1]));
                }
                if V > 2 {
                    sums[I][2] = _mm512_dpbf16_ps(sums[I][2], left, as_bf16(right[2]));
                }
            });
            start = start.wrapping_add(a.pair_stride);
            b = b.wrapping_add(VECTORS);
        }
        match target {
            Target::F32 { c, row_stride, add } if add.is_null() => {
                each_row!(R, I => store_f32::<V, false>(c.add(I * row_stride), add, masks, sums[I]));
            }
            Target::F32 { c, row_stride, add } => {
                each_row!(R, I => store_f32::<V, true>(c.add(I * row_stride), add.add(I * row_stride), masks, sums[I]));
            }
            Target::Bf16 { c, row_stride, accumulate: false } => {
                each_row!(R, I => store_bf16::<V, false>(c.add(I * row_stride), masks, sums[I]));
            }
            Target::Bf16 { c, row_stride, accumulate: true } => {
                each_row!(R, I => store_bf16::<V, true>(c.add(I * row_stride), masks, sums[I]));
            }
        }
    }
}

/// The columns of vector `v` that lie within the first `columns`.
#[inline(always)]
pub(super) fn mask(columns: usize, v: usize) -> __mmask16 {
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

/// `V` vectors of one row of a tile in f32, plus `add` if `ADD`.
///
/// # Safety
/// The processor has AVX-512; the columns that the masks name lie within the target, and if `ADD` within `add`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn store_f32<const V: usize, const ADD: bool>(
    c: *mut f32,
    add: *const f32,
    masks: [__mmask16; VECTORS],
    sums: [__m512; VECTORS],
) {
    for ((v, sum), mask) in sums.into_iter().enumerate().zip(masks).take(V) {
        let c = c.wrapping_add(16 * v);
        // SAFETY: the caller's promise.
        unsafe {
            let sum = if ADD { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, add.wrapping_add(16 * v))) } else { sum };
            _mm512_mask_storeu_ps(c, mask, sum);
        }
    }
}

/// `V` vectors of one row of a tile rounded to bf16, added to what is there if `ADD`.
///
/// # Safety
/// As [`store_f32`], with AVX512-BF16, BW and VL.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn store_bf16<const V: usize, const ADD: bool>(
    c: *mut bf16,
    masks: [__mmask16; VECTORS],
    sums: [__m512; VECTORS],
) {
    for ((v, sum), mask) in sums.into_iter().enumerate().zip(masks).take(V) {
        let c = c.wrapping_add(16 * v);
        // SAFETY: the caller's promise; a vector of bf16 is one of as many integers.
        unsafe {
            let sum = if ADD { _mm512_add_ps(sum, widened(c, mask)) } else { sum };
            let rounded =
                std::mem::transmute::<std::arch::x86_64::__m256bh, std::arch::x86_64::__m256i>(_mm512_cvtneps_pbh(sum));
            if mask == __mmask16::MAX {
                _mm256_storeu_si256(c.cast(), rounded);
            } else {
                _mm256_mask_storeu_epi16(c.cast(), mask, rounded);
            }
        }
    }
}
