//! RMS norm: `y = x / √(mean(x²) + ε) · scale` (Zhang and Sennrich 2019, arXiv 1910.07467).

use super::{block_rows, sum_partials};
use crate::Element;
use crate::dispatch::multiversion;
use crate::math::{dot, mul_add};
use crate::memory::written;
use crate::threads::each;

/// RMS norm of every row of `x [rows, width]` into `out [rows, width]`, with `scale [width]`; keeps
/// `1 / √(mean(x²) + ε)` of each row in `inverse_rms [rows]` for the backward pass.
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm<E: Element>(x: &[f32], scale: &[f32], epsilon: f32, out: &mut [E], inverse_rms: &mut [f32]) {
    let width = scale.len();
    assert_eq!(x.len(), inverse_rms.len() * width);
    assert_eq!(out.len(), x.len());
    if x.is_empty() {
        inverse_rms.fill(1.0 / epsilon.sqrt());
        return;
    }
    let block_rows = block_rows(width);
    let block = block_rows * width;
    let blocks = x.chunks(block).zip(out.chunks_mut(block)).zip(inverse_rms.chunks_mut(block_rows));
    each(blocks, |((x, out), inverse_rms)| forward_rows(x, scale, epsilon, out, inverse_rms));
}

/// [`rms_norm`] into new memory: the output and the inverses.
///
/// # Panics
/// If the length of `x` is no multiple of the width.
#[must_use]
pub fn rms_norm_new<E: Element>(x: &[f32], scale: &[f32], epsilon: f32) -> (Vec<E>, Vec<f32>) {
    let mut inverse_rms = vec![0.0; x.len() / scale.len().max(1)];
    // SAFETY: the kernel writes each element of each row, from its inputs alone, or panics.
    let out = unsafe { written(x.len(), |out| rms_norm(x, scale, epsilon, out, &mut inverse_rms)) };
    (out, inverse_rms)
}

multiversion! {
    fn forward_rows<FMA; E: Element>(
        x: &[f32], scale: &[f32], epsilon: f32, out: &mut [E], inverse_rms: &mut [f32],
    ) {
        let width = scale.len();
        for ((x, out), inverse) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(inverse_rms) {
            *inverse = 1.0 / (dot::<FMA>(x, x) / width as f32 + epsilon).sqrt();
            for ((out, x), scale) in out.iter_mut().zip(x).zip(scale) {
                *out = E::narrow(x * *inverse * scale);
            }
        }
    }

    fn backward_rows<FMA; E: Element>(
        x: &[f32], scale: &[f32], inverse_rms: &[f32], dout: &[E], dx: &mut [f32], dscale: Option<&mut [f32]>,
    ) {
        let width = scale.len();
        let rows = x.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dout), dx), &inverse) in rows.zip(inverse_rms) {
            for ((dx, dout), scale) in dx.iter_mut().zip(dout).zip(scale) {
                *dx = dout.widen() * scale;
            }
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

/// Gradients of [`rms_norm`]: `dx [rows, width]` from `dout [rows, width]` and what the forward pass kept, and
/// `dscale [width]` if asked. Both are overwritten.
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm_backward<E: Element>(
    x: &[f32],
    scale: &[f32],
    inverse_rms: &[f32],
    dout: &[E],
    dx: &mut [f32],
    dscale: Option<&mut [f32]>,
) {
    let width = scale.len();
    assert_eq!(x.len(), inverse_rms.len() * width);
    assert_eq!(dout.len(), x.len());
    assert_eq!(dx.len(), x.len());
    if x.is_empty() {
        if let Some(dscale) = dscale {
            dscale.fill(0.0);
        }
        return;
    }
    let block_rows = block_rows(width);
    let block = block_rows * width;
    let blocks = x.chunks(block).zip(dout.chunks(block)).zip(dx.chunks_mut(block)).zip(inverse_rms.chunks(block_rows));
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
}

/// [`rms_norm_backward`] with `dx` in new memory.
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
    // SAFETY: the kernel writes each element of a row before it reads it, or panics.
    unsafe { written(x.len(), |dx| rms_norm_backward(x, scale, inverse_rms, dout, dx, dscale)) }
}
