//! RMS norm: `y = x / √(mean(x²) + ε) · scale` (Zhang and Sennrich 2019, arXiv 1910.07467).

use std::mem::MaybeUninit;

use super::rows::{block_rows, sum_partials};
use crate::Element;
use crate::dispatch::multiversion;
use crate::math::{dot, mul_add};
use crate::threads::each;
use crate::unwritten::written;

/// RMS norm of every row of `x [rows, width]`, with `scale [width]`: the output `[rows, width]`, and
/// `1 / √(mean(x²) + ε)` of each row, `[rows]`, for the backward pass.
///
/// # Panics
/// If the length of `x` is no multiple of the width.
#[must_use]
pub fn rms_norm_new<E: Element>(x: &[f32], scale: &[f32], epsilon: f32) -> (Vec<E>, Vec<f32>) {
    let width = scale.len();
    let mut inverse_rms = vec![1.0 / epsilon.sqrt(); x.len() / width.max(1)];
    assert_eq!(x.len(), inverse_rms.len() * width, "x is no whole number of rows");
    if x.is_empty() {
        return (Vec::new(), inverse_rms);
    }
    let block_rows = block_rows(width);
    let block = block_rows * width;
    let norm = |out: &mut [MaybeUninit<E>]| {
        let blocks = x.chunks(block).zip(out.chunks_mut(block)).zip(inverse_rms.chunks_mut(block_rows));
        each(blocks, |((x, out), inverse_rms)| forward_rows(x, scale, epsilon, out, inverse_rms));
    };
    // SAFETY: the output is as long as `x`, which the blocks of rows make up; each of them is written.
    let out = unsafe { written(x.len(), norm) };
    (out, inverse_rms)
}

/// Gradients of [`rms_norm_new`]: gives `dx [rows, width]` from `dout [rows, width]` and what the forward pass kept, and
/// overwrites `dscale [width]` if asked.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn rms_norm_backward_new<E: Element>(
    x: &[f32],
    scale: &[f32],
    inverse_rms: &[f32],
    dout: &[E],
    dscale: Option<&mut [f32]>,
) -> Vec<f32> {
    let width = scale.len();
    assert_eq!(x.len(), inverse_rms.len() * width);
    assert_eq!(dout.len(), x.len());
    if x.is_empty() {
        if let Some(dscale) = dscale {
            dscale.fill(0.0);
        }
        return Vec::new();
    }
    let block_rows = block_rows(width);
    let block = block_rows * width;
    let gradients = |dx: &mut [MaybeUninit<f32>]| {
        let blocks =
            x.chunks(block).zip(dout.chunks(block)).zip(dx.chunks_mut(block)).zip(inverse_rms.chunks(block_rows));
        match dscale {
            None => {
                each(blocks, |(((x, dout), dx), inverse)| backward_rows(x, scale, inverse, dout, dx, None));
            }
            Some(dscale) => {
                assert_eq!(dscale.len(), width);
                let mut partials = vec![0.0; inverse_rms.len().div_ceil(block_rows) * width];
                each(blocks.zip(partials.chunks_mut(width)), |((((x, dout), dx), inverse), partial)| {
                    backward_rows(x, scale, inverse, dout, dx, Some(partial));
                });
                sum_partials(&partials, dscale);
            }
        }
    };
    // SAFETY: the gradient is as long as `x`, which the blocks of rows make up; each of them is written.
    unsafe { written(x.len(), gradients) }
}

multiversion! {
    /// Writes all rows of `out`, which is as long as `x`, rows as long as `scale`.
    pub(super) fn forward_rows<FMA; E: Element>(
        x: &[f32], scale: &[f32], epsilon: f32, out: &mut [MaybeUninit<E>], inverse_rms: &mut [f32],
    ) {
        let width = scale.len();
        for ((x, out), inverse) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(inverse_rms) {
            *inverse = 1.0 / (dot::<FMA>(x, x) / width as f32 + epsilon).sqrt();
            for ((out, x), scale) in out.iter_mut().zip(x).zip(scale) {
                out.write(E::narrow(x * *inverse * scale));
            }
        }
    }

    /// Writes all rows of `dx`, which is as long as `x` and `dout`, rows as long as `scale`.
    pub(super) fn backward_rows<FMA; E: Element>(
        x: &[f32], scale: &[f32], inverse_rms: &[f32], dout: &[E], dx: &mut [MaybeUninit<f32>],
        dscale: Option<&mut [f32]>,
    ) {
        let width = scale.len();
        let rows = x.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dout), dx), &inverse) in rows.zip(inverse_rms) {
            for ((dx, dout), scale) in dx.iter_mut().zip(dout).zip(scale) {
                dx.write(dout.widen() * scale);
            }
            // SAFETY: the row, `dout` and `scale` are of one length, so each element has just been written.
            let dx = unsafe { dx.assume_init_mut() };
            let factor = -dot::<FMA>(dx, x) / width as f32 * inverse * inverse;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = mul_add::<FMA>(*x, factor, *dx) * inverse;
            }
        }
        if let Some(dscale) = dscale {
            dscale.fill(0.0);
            for ((x, dout), &inverse) in x.chunks_exact(width).zip(dout.chunks_exact(width)).zip(inverse_rms) {
                for ((dscale, x), dout) in dscale.iter_mut().zip(x).zip(dout) {
                    *dscale = mul_add::<FMA>(dout.widen() * inverse, *x, *dscale);
                }
            }
        }
    }
}
