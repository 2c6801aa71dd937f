//! Blocks of 32 values with one scale: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`.
//!
//! Byte `i` of the quants holds value `i` in its low and value `i + 16` in its high four bits.

use super::part::{PART, half_at};

pub(super) const BLOCK: usize = PART;

/// d · (q − 8): f16 d, 16 bytes of quants.
#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; PART]) {
    let d = half_at(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        out[i] = (i32::from(q & 15) - 8) as f32 * d;
        out[i + 16] = (i32::from(q >> 4) - 8) as f32 * d;
    }
}

/// d · q + m: f16 d, f16 m, 16 bytes of quants.
#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; PART]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, &q) in block[4..].iter().enumerate() {
        out[i] = f32::from(q & 15) * d + m;
        out[i + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The fifth bits of 32 values, at byte `at`.
#[inline(always)]
fn fifth_bits<const B: usize>(block: &[u8; B], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// d · (q − 16): f16 d, 4 bytes of fifth bits, 16 bytes of quants.
#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; PART]) {
    let (d, high) = (half_at(block, 0), fifth_bits(block, 2));
    for (i, &q) in block[6..].iter().enumerate() {
        let low_value = u32::from(q & 15) | (high >> i & 1) << 4;
        let high_value = u32::from(q >> 4) | (high >> (i + 16) & 1) << 4;
        out[i] = (low_value as i32 - 16) as f32 * d;
        out[i + 16] = (high_value as i32 - 16) as f32 * d;
    }
}

/// d · q + m: f16 d, f16 m, 4 bytes of fifth bits, 16 bytes of quants.
#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; PART]) {
    let (d, m, high) = (half_at(block, 0), half_at(block, 2), fifth_bits(block, 4));
    for (i, &q) in block[8..].iter().enumerate() {
        out[i] = (u32::from(q & 15) | (high >> i & 1) << 4) as f32 * d + m;
        out[i + 16] = (u32::from(q >> 4) | (high >> (i + 16) & 1) << 4) as f32 * d + m;
    }
}

/// d · q: f16 d, 32 signed bytes.
#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; PART]) {
    let d = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q as i8) * d;
    }
}
