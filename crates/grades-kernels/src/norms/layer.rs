//! Layer norm: `y = (x − mean) / √(var + ε) · scale + bias` (Ba et al. 2016, arXiv 1607.06450).

use std::mem::MaybeUninit;

use super::rows::{block_rows, sum_partials};
use crate::Element;
use crate::dispatch::multiversion;
use crate::math::{dot, mul_add, sum};
use crate::threads::each;
use crate::unwritten::written;

/// Layer norm of every row of `x [rows, width]`, with `scale [width]` and `bias [width]`: the output `[rows, width]`, and the
/// mean and `1 / √(var + ε)` of each row (of the biased variance), `[rows, 2]`, for the backward pass.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn layer_norm_new<E: Element>(x: &[f32], scale: &[f32], bias: &[f32], epsilon: f32) -> (Vec<E>, Vec<f32>) {
    let width = scale.len();
    assert_eq!(bias.len(), width);
    let mut moments = vec![0.0; x.len() / width.max(1) * 2];
    assert_eq!(x.len(), moments.len() / 2 * width, "x is no whole number of rows");
    if x.is_empty() {
        return (Vec::new(), moments);
    }
    let rows = block_rows(width);
    let norm = |out: &mut [MaybeUninit<E>]| {
        let blocks = x.chunks(rows * width).zip(out.chunks_mut(rows * width)).zip(moments.chunks_mut(rows * 2));
        each(blocks, |((x, out), moments)| forward_rows(x, scale, bias, epsilon, out, moments));
    };
    // SAFETY: the output is as long as `x`, which the blocks of rows make up; each of them is written.
    let out = unsafe { written(x.len(), norm) };
    (out, moments)
}

/// Gradients of [`layer_norm_new`]: gives `dx [rows, width]` from `dout [rows, width]` and what the forward pass kept, and
/// overwrites `[dscale, dbias]`, `[width]` each, if asked.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn layer_norm_backward_new<E: Element>(
    x: &[f32],
    scale: &[f32],
    moments: &[f32],
    dout: &[E],
    parameters: Option<[&mut [f32]; 2]>,
) -> Vec<f32> {
    let width = scale.len();
    assert_eq!(x.len(), moments.len() / 2 * width);
    assert_eq!(dout.len(), x.len());
    if x.is_empty() {
        parameters.into_iter().flatten().for_each(|gradient| gradient.fill(0.0));
        return Vec::new();
    }
    let rows = block_rows(width);
    let blocks = || x.chunks(rows * width).zip(dout.chunks(rows * width)).zip(moments.chunks(rows * 2));
    if let Some([dscale, dbias]) = parameters {
        assert_eq!((dscale.len(), dbias.len()), (width, width));
        let count = (moments.len() / 2).div_ceil(rows) * width;
        let (mut scales, mut biases) = (vec![0.0; count], vec![0.0; count]);
        let partials = scales.chunks_mut(width).zip(biases.chunks_mut(width));
        each(blocks().zip(partials), |(((x, dout), moments), (dscale, dbias))| {
            parameter_rows(x, moments, dout, dscale, dbias);
        });
        sum_partials(&scales, dscale);
        sum_partials(&biases, dbias);
    }
    let gradients = |dx: &mut [MaybeUninit<f32>]| {
        each(blocks().zip(dx.chunks_mut(rows * width)), |(((x, dout), moments), dx)| {
            backward_rows(x, scale, moments, dout, dx);
        });
    };
    // SAFETY: the gradient is as long as `x`, which the blocks of rows make up; each of them is written.
    unsafe { written(x.len(), gradients) }
}

multiversion! {
    /// Writes all rows of `out`, which is as long as `x`, rows as long as `scale`.
    fn forward_rows<FMA; E: Element>(
        x: &[f32], scale: &[f32], bias: &[f32], epsilon: f32, out: &mut [MaybeUninit<E>], moments: &mut [f32],
    ) {
        let width = scale.len();
        let mut centred = vec![0.0; width];
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for ((x, out), moments) in rows.zip(moments.chunks_exact_mut(2)) {
            let mean = sum(x) / width as f32;
            for (centred, x) in centred.iter_mut().zip(x) {
                *centred = x - mean;
            }
            let inverse = 1.0 / (dot::<FMA>(&centred, &centred) / width as f32 + epsilon).sqrt();
            for (((out, centred), scale), bias) in out.iter_mut().zip(&centred).zip(scale).zip(bias) {
                out.write(E::narrow(mul_add::<FMA>(centred * inverse, *scale, *bias)));
            }
            moments.copy_from_slice(&[mean, inverse]);
        }
    }

    /// Writes all rows of `dx`, which is as long as `x` and `dout`, rows as long as `scale`.
    fn backward_rows<FMA; E: Element>(
        x: &[f32], scale: &[f32], moments: &[f32], dout: &[E], dx: &mut [MaybeUninit<f32>],
    ) {
        let width = scale.len();
        let (mut centred, mut along) = (vec![0.0; width], vec![0.0; width]);
        let rows = x.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dout), dx), moments) in rows.zip(moments.chunks_exact(2)) {
            let (mean, inverse) = (moments[0], moments[1]);
            for (along, (dout, scale)) in along.iter_mut().zip(dout.iter().zip(scale)) {
                *along = dout.widen() * scale;
            }
            // Σ g·(x − mean) = Σ g·x − mean·Σ g would cancel badly: the centred row instead.
            for (centred, x) in centred.iter_mut().zip(x) {
                *centred = x - mean;
            }
            let gradient_mean = sum(&along) / width as f32;
            let factor = dot::<FMA>(&along, &centred) / width as f32 * inverse * inverse;
            for (dx, (along, centred)) in dx.iter_mut().zip(along.iter().zip(&centred)) {
                dx.write(mul_add::<FMA>(-centred, factor, *along - gradient_mean) * inverse);
            }
        }
    }

    fn parameter_rows<FMA; E: Element>(
        x: &[f32], moments: &[f32], dout: &[E], dscale: &mut [f32], dbias: &mut [f32],
    ) {
        let width = dscale.len();
        let rows = x.chunks_exact(width).zip(dout.chunks_exact(width));
        for ((x, dout), moments) in rows.zip(moments.chunks_exact(2)) {
            let (mean, inverse) = (moments[0], moments[1]);
            for (((dscale, dbias), x), dout) in dscale.iter_mut().zip(dbias.iter_mut()).zip(x).zip(dout) {
                let dout = dout.widen();
                *dscale = mul_add::<FMA>((x - mean) * inverse, dout, *dscale);
                *dbias += dout;
            }
        }
    }
}
