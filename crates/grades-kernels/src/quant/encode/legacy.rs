//! Blocks of 32 values with one scale. Their layout is told in `quant/legacy.rs`.

use super::{extreme, inverse, stored};

/// The scale is such that the largest magnitude is code 0.
#[inline(always)]
pub(super) fn q4_0(values: &[f32; 32], block: &mut [u8; 18]) {
    let d = extreme(values) / -8.0;
    stored(d, block);
    let inverse = inverse(d);
    let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = code(values[i]) | code(values[i + 16]) << 4;
    }
}

/// Puts codes of five bits down: the fifths, then the others.
#[inline(always)]
fn five_bits(codes: &[u8; 32], at: &mut [u8]) {
    let (high, low) = at.split_at_mut(4);
    let bits = codes.iter().enumerate().fold(0_u32, |bits, (i, code)| bits | u32::from(code >> 4) << i);
    high.copy_from_slice(&bits.to_le_bytes());
    for (i, byte) in low.iter_mut().enumerate() {
        *byte = codes[i] & 15 | codes[i + 16] << 4;
    }
}

#[inline(always)]
pub(super) fn q5_0(values: &[f32; 32], block: &mut [u8; 22]) {
    let d = extreme(values) / -16.0;
    stored(d, block);
    let inverse = inverse(d);
    five_bits(&values.map(|value| ((value * inverse + 16.5) as u8).min(31)), &mut block[2..]);
}

#[inline(always)]
pub(super) fn q5_1(values: &[f32; 32], block: &mut [u8; 24]) {
    let (least, most) =
        values.iter().fold((f32::MAX, f32::MIN), |(least, most), &value| (least.min(value), most.max(value)));
    let d = (most - least) / 31.0;
    stored(d, block);
    stored(least, &mut block[2..]);
    let inverse = inverse(d);
    five_bits(&values.map(|value| (((value - least) * inverse + 0.5) as u8).min(31)), &mut block[4..]);
}

#[inline(always)]
pub(super) fn q8_0(values: &[f32; 32], block: &mut [u8; 34]) {
    let d = extreme(values).abs() / 127.0;
    stored(d, block);
    let inverse = inverse(d);
    for (value, byte) in values.iter().zip(&mut block[2..]) {
        // Halves away from 0.
        *byte = (value * inverse).round() as i8 as u8;
    }
}
