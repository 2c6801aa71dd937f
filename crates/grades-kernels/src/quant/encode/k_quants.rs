//! Super-blocks of 256 values whose sub-blocks have quantised scales. Their layout is told in `quant/k_quants.rs`.

use super::search::{Trials, around_zero, with_minimum};
use super::{extreme, inverse, nearest, stored};

const BLOCK: usize = 256;
const PARTS: usize = 8;

/// Chooses scale and minimum of each 32 values, writes d, m and the 12 bytes of 6-bit scales and minima, and gives the codes.
#[inline(always)]
fn scales_and_codes(values: &[f32; BLOCK], most: f32, trials: Trials, head: &mut [u8]) -> [u8; BLOCK] {
    let parts = values.as_chunks::<32>().0;
    let (mut scales, mut minima) = ([0.0; PARTS], [0.0; PARTS]);
    for (j, part) in parts.iter().enumerate() {
        let mean_square = part.iter().map(|value| value * value).sum::<f32>() / 32.0;
        let weights = part.map(|value| mean_square.sqrt() + value.abs());
        (scales[j], minima[j]) = with_minimum(part, &weights, most, trials);
    }
    let largest = |of: &[f32; PARTS]| of.iter().fold(0.0_f32, |largest, &one| largest.max(one));
    let (largest_scale, largest_minimum) = (largest(&scales), largest(&minima));
    let six_bits = |of: &[f32; PARTS], largest: f32| {
        let per_unit = if largest > 0.0 { 63.0 / largest } else { 0.0 };
        of.map(|one| nearest(per_unit * one).clamp(0.0, 63.0) as u8)
    };
    let (scales, minima) = (six_bits(&scales, largest_scale), six_bits(&minima, largest_minimum));
    let packed = &mut head[4..16];
    packed.fill(0);
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = minima[j] | minima[j + 4] >> 4 << 6;
        packed[j + 8] = scales[j + 4] & 15 | (minima[j + 4] & 15) << 4;
    }
    let d = stored(largest_scale / 63.0, head);
    let m = stored(largest_minimum / 63.0, &mut head[2..]);
    let mut codes = [0; BLOCK];
    for ((part, codes), (scale, minimum)) in
        parts.iter().zip(codes.as_chunks_mut::<32>().0).zip(scales.into_iter().zip(minima))
    {
        let (scale, minimum) = (d * f32::from(scale), m * f32::from(minimum));
        if scale == 0.0 {
            continue;
        }
        for (value, code) in part.iter().zip(codes) {
            *code = nearest((value + minimum) / scale).clamp(0.0, most) as u8;
        }
    }
    codes
}

#[inline(always)]
pub(super) fn q4_k(values: &[f32; BLOCK], block: &mut [u8; 144]) {
    let trials = Trials { first: -1.0, step: 0.1, steps: 20 };
    let (head, quants) = block.split_at_mut(16);
    let codes = scales_and_codes(values, 15.0, trials, head);
    for (codes, quants) in codes.as_chunks::<64>().0.iter().zip(quants.as_chunks_mut::<32>().0) {
        for (i, byte) in quants.iter_mut().enumerate() {
            *byte = codes[i] | codes[i + 32] << 4;
        }
    }
}

#[inline(always)]
pub(super) fn q5_k(values: &[f32; BLOCK], block: &mut [u8; 176]) {
    let trials = Trials { first: -0.5, step: 0.1, steps: 15 };
    let (head, rest) = block.split_at_mut(16);
    let codes = scales_and_codes(values, 31.0, trials, head);
    let (high, quants) = rest.split_at_mut(32);
    high.fill(0);
    for (pair, (codes, quants)) in codes.as_chunks::<64>().0.iter().zip(quants.as_chunks_mut::<32>().0).enumerate() {
        for (i, byte) in quants.iter_mut().enumerate() {
            *byte = codes[i] & 15 | codes[i + 32] << 4;
            high[i] |= codes[i] >> 4 << (2 * pair) | codes[i + 32] >> 4 << (2 * pair + 1);
        }
    }
}

#[inline(always)]
pub(super) fn q6_k(values: &[f32; BLOCK], block: &mut [u8; 210]) {
    let parts = values.as_chunks::<16>().0;
    let mut scales = [0.0; 16];
    for (scale, part) in scales.iter_mut().zip(parts) {
        *scale = around_zero(part, 32.0);
    }
    let extreme = extreme(&scales);
    block.fill(0);
    // Where all is nothing, so are the scales.
    if extreme.abs() < 1e-15 {
        return;
    }
    let per_unit = -128.0 / extreme;
    let d = stored(inverse(per_unit), &mut block[208..]);
    let mut codes = [0_u8; BLOCK];
    for (j, part) in parts.iter().enumerate() {
        let scale = nearest(per_unit * scales[j]).clamp(-128.0, 127.0);
        block[192 + j] = scale as i8 as u8;
        let scale = d * scale;
        // Where the scale has become 0, any code is as good.
        for (value, code) in part.iter().zip(&mut codes[16 * j..]) {
            *code = if scale == 0.0 { 0 } else { (nearest(value / scale).clamp(-32.0, 31.0) + 32.0) as u8 };
        }
    }
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for i in 0..32 {
            let quarter = |q: usize| codes[32 * q + i];
            block[64 * half + i] = quarter(0) & 15 | quarter(2) << 4;
            block[64 * half + 32 + i] = quarter(1) & 15 | quarter(3) << 4;
            block[128 + 32 * half + i] =
                quarter(0) >> 4 | quarter(1) >> 4 << 2 | quarter(2) >> 4 << 4 | quarter(3) >> 4 << 6;
        }
    }
}
