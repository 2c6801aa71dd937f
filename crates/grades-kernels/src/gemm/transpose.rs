//! A square of numbers transposed in registers.

use std::arch::x86_64::{
    __m512i, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

/// The transpose of 16 × 16 numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Within each quarter of four rows: pairs of rows, then pairs of pairs. Lane l of quarters[4 q + j] holds column
    // 4 l + j of rows 4 q .. 4 q + 4.
    let mut quarters = rows;
    for q in 0..4 {
        let [a, b, c, d] = [rows[4 * q], rows[4 * q + 1], rows[4 * q + 2], rows[4 * q + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        quarters[4 * q] = _mm512_unpacklo_epi64(ab_low, cd_low);
        quarters[4 * q + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        quarters[4 * q + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        quarters[4 * q + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // Then a transpose of the 4 × 4 lanes for each j.
    let mut out = quarters;
    for j in 0..4 {
        let [a, b, c, d] = [quarters[j], quarters[4 + j], quarters[8 + j], quarters[12 + j]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xDD>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        out[8 + j] = _mm512_shuffle_i32x4::<0xDD>(ab_even, cd_even);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[12 + j] = _mm512_shuffle_i32x4::<0xDD>(ab_odd, cd_odd);
    }
    out
}
