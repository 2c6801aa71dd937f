//! Super-blocks of 256 values whose sub-blocks have their own quantised scales: `Q2_K` … `Q6_K`.
//!
//! Each function decodes 32 values, part `j` of the eight of a super-block, so that a range of a row costs what it
//! holds.

use super::part::{PART, half_at};

pub(super) const BLOCK: usize = 256;

/// d·s · q − m·t with 4-bit s, t for each 16 values: 16 bytes of s and t, 64 of 2-bit quants, f16 d, f16 m.
#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], j: usize, out: &mut [f32; PART]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, m) = (half_at(block, 80), half_at(block, 82));
    // Each 128 values share 32 bytes: value 32·j + l is bits 2j of byte l.
    let (half, shift) = (j / 4, j % 4 * 2);
    for (out, (scale, quants)) in
        out.as_chunks_mut::<16>().0.iter_mut().zip(scales[2 * j..].iter().zip(quants[32 * half..].as_chunks::<16>().0))
    {
        let (scale, minimum) = (d * f32::from(scale & 15), m * f32::from(scale >> 4));
        for (out, q) in out.iter_mut().zip(quants) {
            *out = scale * f32::from(q >> shift & 3) - minimum;
        }
    }
}

/// d·(s − 32) · (q − 4) with 6-bit s for each 16 values: 32 bytes of third bits, 64 of 2-bit quants, 12 of s, f16 d.
#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], j: usize, out: &mut [f32; PART]) {
    let (high, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    let scale = |i: usize| {
        // Low four bits: bytes 0..8, first low then high halves; top two bits: bytes 8..12, two bits for each i / 4.
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let top = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        i32::from(low | top << 4) - 32
    };
    let (half, shift) = (j / 4, j % 4 * 2);
    let scales = [d * scale(2 * j) as f32, d * scale(2 * j + 1) as f32];
    for (l, ((out, q), high)) in out.iter_mut().zip(&quants[32 * half..]).zip(high).enumerate() {
        let q = q >> shift & 3 | (high >> j & 1) << 2;
        *out = scales[l / 16] * (i32::from(q) - 4) as f32;
    }
}

/// The 6-bit scale and minimum of sub-block `j` (of 8) in the 12 bytes of `Q4_K` and `Q5_K`.
#[inline(always)]
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// d·s · q − m·t with 6-bit s, t for each 32 values: f16 d, f16 m, 12 bytes of s and t, 128 of 4-bit quants.
#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], j: usize, out: &mut [f32; PART]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..]);
    let (scale, minimum) = scale_and_minimum(packed, j);
    let (scale, minimum) = (d * scale, m * minimum);
    // Each 64 values share 32 bytes: the first 32 are the low, the others the high halves.
    let shift = j % 2 * 4;
    for (out, q) in out.iter_mut().zip(&quants[j / 2 * 32..]) {
        *out = scale * f32::from(q >> shift & 15) - minimum;
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the quants.
#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], j: usize, out: &mut [f32; PART]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (packed, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
    let (scale, minimum) = scale_and_minimum(packed, j);
    let (scale, minimum) = (d * scale, m * minimum);
    let shift = j % 2 * 4;
    for ((out, q), high) in out.iter_mut().zip(&quants[j / 2 * 32..]).zip(high) {
        let q = q >> shift & 15 | (high >> j & 1) << 4;
        *out = scale * f32::from(q) - minimum;
    }
}

/// d·s · (q − 32) with signed 8-bit s for each 16 values: 128 bytes of low halves, 64 of top two bits, 16 of s, f16 d.
#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], j: usize, out: &mut [f32; PART]) {
    let (low, top, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    // Each 128 values: quarters of 32; low halves of quarters 0, 1 then high halves of bytes of 2, 3.
    let (half, quarter) = (j / 4, j % 4);
    let (shift_low, shift_top) = (quarter / 2 * 4, quarter * 2);
    let scales = [d * f32::from(scales[2 * j] as i8), d * f32::from(scales[2 * j + 1] as i8)];
    let (low, top) = (&low[half * 64 + quarter % 2 * 32..], &top[half * 32..]);
    for (l, ((out, low), top)) in out.iter_mut().zip(low).zip(top).enumerate() {
        let q = low >> shift_low & 15 | (top >> shift_top & 3) << 4;
        *out = scales[l / 16] * (i32::from(q) - 32) as f32;
    }
}
