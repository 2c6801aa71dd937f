//! 4-bit codes that stand for the unevenly spaced numbers of a table: `IQ4_NL`, `IQ4_XS`, `MXFP4`.
//!
//! Byte `i` of a part's 16 bytes holds value `i` in its low and value `i + 16` in its high four bits.

use super::part::{PART, half_at};

pub(super) const BLOCK: usize = PART;

/// What the codes of `IQ4_NL` and `IQ4_XS` stand for, times the scale.
const LEVELS: [f32; 16] = [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];

/// Twice what the codes of `MXFP4` stand for: a sign, two bits of exponent and one of mantissa.
const E2M1: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];

#[inline(always)]
fn scaled(codes: &[u8], levels: &[f32; 16], scale: f32, out: &mut [f32; PART]) {
    for (i, &code) in codes.iter().take(PART / 2).enumerate() {
        out[i] = scale * levels[usize::from(code & 15)];
        out[i + PART / 2] = scale * levels[usize::from(code >> 4)];
    }
}

/// d · level: f16 d, 16 bytes of codes.
#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; PART]) {
    scaled(&block[2..], &LEVELS, half_at(block, 0), out);
}

/// d·(s − 32) · level with 6-bit s for each 32 values: f16 d, 2 bytes of the top two bits of s, 4 of its low four, 128 of codes.
/// Decodes part `j` of the eight.
#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], j: usize, out: &mut [f32; PART]) {
    let top = u16::from_le_bytes([block[2], block[3]]) >> (2 * j) & 3;
    let low = block[4 + j / 2] >> (j % 2 * 4) & 15;
    let scale = i32::from(low) + 16 * i32::from(top) - 32;
    scaled(&block[8 + 16 * j..], &LEVELS, half_at(block, 0) * scale as f32, out);
}

/// 2ᵉ · level: e + 127 as one byte, 16 bytes of codes (OCP Microscaling Formats 1.0).
#[inline(always)]
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; PART]) {
    // Half of 2ᵉ: an f32 has the same bias in its exponent; the two smallest are denormal numbers.
    let exponent = u32::from(block[0]);
    let half = f32::from_bits(if exponent < 2 { 1 << 21 << exponent } else { (exponent - 1) << 23 });
    scaled(&block[1..], &E2M1, half, out);
}
