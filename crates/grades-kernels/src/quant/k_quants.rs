//! Super-blocks of 256 values whose sub-blocks have their own quantised scales: `Q2_K` … `Q6_K`.

use super::half_at;

pub(super) const BLOCK: usize = 256;

/// d·s · q − m·t with 4-bit s, t for each 16 values: 16 bytes of s and t, 64 of 2-bit quants, f16 d, f16 m.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; BLOCK]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, m) = (half_at(block, 80), half_at(block, 82));
    for (i, out) in out.iter_mut().enumerate() {
        // Each 128 values share 32 bytes: value 32·j + l is bits 2j of byte l.
        let (half, shift, byte) = (i / 128, i / 32 % 4 * 2, i % 32);
        let q = quants[half * 32 + byte] >> shift & 3;
        let scale = scales[i / 16];
        *out = d * f32::from(scale & 15) * f32::from(q) - m * f32::from(scale >> 4);
    }
}

/// d·(s − 32) · (q − 4) with 6-bit s for each 16 values: 32 bytes of third bits, 64 of 2-bit quants, 12 of s, f16 d.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; BLOCK]) {
    let (high, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    let scale = |j: usize| {
        // Low four bits: bytes 0..8, first low then high halves; top two bits: bytes 8..12, two bits for each j / 4.
        let low = if j < 8 { packed[j] & 15 } else { packed[j - 8] >> 4 };
        let top = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        i32::from(low | top << 4) - 32
    };
    for (i, out) in out.iter_mut().enumerate() {
        let (half, shift, byte) = (i / 128, i / 32 % 4 * 2, i % 32);
        let low = quants[half * 32 + byte] >> shift & 3;
        let third = high[byte] >> (i / 32) & 1;
        *out = d * scale(i / 16) as f32 * (i32::from(low | third << 2) - 4) as f32;
    }
}

/// The 6-bit scale and minimum of sub-block `j` (of 8) in the 12 bytes of `Q4_K` and `Q5_K`.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// d·s · q − m·t with 6-bit s, t for each 32 values: f16 d, f16 m, 12 bytes of s and t, 128 of 4-bit quants.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; BLOCK]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, j);
        let (scale, minimum) = (d * scale, m * minimum);
        // Each 64 values share 32 bytes: the first 32 are the low, the others the high halves.
        for (out, q) in out.iter_mut().zip(&quants[j / 2 * 32..]) {
            *out = scale * f32::from(q >> (j % 2 * 4) & 15) - minimum;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the quants.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; BLOCK]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (packed, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, j);
        let (scale, minimum) = (d * scale, m * minimum);
        for ((out, q), high) in out.iter_mut().zip(&quants[j / 2 * 32..]).zip(high) {
            let q = q >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
            *out = scale * f32::from(q) - minimum;
        }
    }
}

/// d·s · (q − 32) with signed 8-bit s for each 16 values: 128 bytes of low halves, 64 of top two bits, 16 of s, f16 d.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; BLOCK]) {
    let (low, top, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        // Each 128 values: quarters j of 32; low halves of quarters 0, 1 then high halves of bytes of 2, 3.
        let (half, j, l) = (i / 128, i / 32 % 4, i % 32);
        let low = low[half * 64 + j % 2 * 32 + l] >> (j / 2 * 4) & 15;
        let top = top[half * 32 + l] >> (j * 2) & 3;
        let q = i32::from(low | top << 4) - 32;
        *out = d * f32::from(scales[i / 16] as i8) * q as f32;
    }
}
