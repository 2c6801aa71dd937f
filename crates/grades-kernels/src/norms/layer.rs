//! Layer norm: `y = (x − mean) / √(var + ε) · scale + bias` (Ba et al. 2016, arXiv 1607.06450).

use super::rows::{block_rows, sum_partials};
use crate::dispatch::multiversion;
use crate::math::{dot, mul_add, sum};
use crate::threads::each;

/// Layer norm of every row of `x [rows, width]` into `out [rows, width]`, with `scale [width]` and
/// `bias [width]`; keeps `mean [rows]` and `inverse_std [rows]` (of the biased variance) for the backward pass.
///
/// # Panics
/// If a length does not fit.
pub fn layer_norm(
    x: &[f32],
    scale: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
    mean: &mut [f32],
    inverse_std: &mut [f32],
) {
    let width = scale.len();
    assert_eq!(bias.len(), width);
    assert_eq!(x.len(), mean.len() * width);
    assert_eq!(inverse_std.len(), mean.len());
    assert_eq!(out.len(), x.len());
    if x.is_empty() {
        mean.fill(0.0);
        inverse_std.fill(1.0 / epsilon.sqrt());
        return;
    }
    let block_rows = block_rows(width);
    let block = block_rows * width;
    let kept = mean.chunks_mut(block_rows).zip(inverse_std.chunks_mut(block_rows));
    each(x.chunks(block).zip(out.chunks_mut(block)).zip(kept), |((x, out), (mean, inverse))| {
        forward_rows(x, scale, bias, epsilon, out, mean, inverse);
    });
}

/// Where the gradients of [`layer_norm`] go; what is `None` is not computed. All are overwritten.
#[derive(Debug)]
pub struct LayerNormGradients<'a> {
    /// `[rows, width]`.
    pub dx: &'a mut [f32],
    /// `[width]` each: of the scale and of the bias.
    pub dscale_dbias: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// Gradients of [`layer_norm`] from `dout [rows, width]` and what the forward pass kept.
///
/// # Panics
/// If a length does not fit.
pub fn layer_norm_backward(
    x: &[f32],
    scale: &[f32],
    mean: &[f32],
    inverse_std: &[f32],
    dout: &[f32],
    gradients: LayerNormGradients,
) {
    let LayerNormGradients { dx, dscale_dbias } = gradients;
    let width = scale.len();
    assert_eq!(x.len(), mean.len() * width);
    assert_eq!(inverse_std.len(), mean.len());
    assert_eq!(dout.len(), x.len());
    assert_eq!(dx.len(), x.len());
    if x.is_empty() {
        if let Some((dscale, dbias)) = dscale_dbias {
            dscale.fill(0.0);
            dbias.fill(0.0);
        }
        return;
    }
    let block_rows = block_rows(width);
    let block = block_rows * width;
    let blocks = x
        .chunks(block)
        .zip(dout.chunks(block))
        .zip(dx.chunks_mut(block))
        .zip(mean.chunks(block_rows).zip(inverse_std.chunks(block_rows)));
    each(blocks, |(((x, dout), dx), (mean, inverse))| backward_rows(x, scale, mean, inverse, dout, dx));
    if let Some((dscale, dbias)) = dscale_dbias {
        assert_eq!(dscale.len(), width);
        assert_eq!(dbias.len(), width);
        let count = mean.len().div_ceil(block_rows) * width;
        let (mut scales, mut biases) = (vec![0.0; count], vec![0.0; count]);
        let blocks = x
            .chunks(block)
            .zip(dout.chunks(block))
            .zip(mean.chunks(block_rows).zip(inverse_std.chunks(block_rows)))
            .zip(scales.chunks_mut(width).zip(biases.chunks_mut(width)));
        each(blocks, |(((x, dout), (mean, inverse)), (dscale, dbias))| {
            parameter_rows(x, mean, inverse, dout, dscale, dbias);
        });
        sum_partials(&scales, dscale);
        sum_partials(&biases, dbias);
    }
}

multiversion! {
    fn forward_rows<FMA>(
        x: &[f32], scale: &[f32], bias: &[f32], epsilon: f32,
        out: &mut [f32], mean: &mut [f32], inverse_std: &mut [f32],
    ) {
        let width = scale.len();
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for ((x, out), (mean, inverse)) in rows.zip(mean.iter_mut().zip(inverse_std)) {
            *mean = sum(x) / width as f32;
            for (out, x) in out.iter_mut().zip(x) {
                *out = x - *mean;
            }
            *inverse = 1.0 / (dot::<FMA>(out, out) / width as f32 + epsilon).sqrt();
            for ((out, scale), bias) in out.iter_mut().zip(scale).zip(bias) {
                *out = mul_add::<FMA>(*out * *inverse, *scale, *bias);
            }
        }
    }

    fn backward_rows<FMA>(
        x: &[f32], scale: &[f32], mean: &[f32], inverse_std: &[f32], dout: &[f32], dx: &mut [f32],
    ) {
        let width = scale.len();
        let rows = x.chunks_exact(width).zip(dout.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dout), dx), (&mean, &inverse)) in rows.zip(mean.iter().zip(inverse_std)) {
            for ((dx, dout), scale) in dx.iter_mut().zip(dout).zip(scale) {
                *dx = dout * scale;
            }
            let gradient_mean = sum(dx) / width as f32;
            // Σ g·(x − mean) = Σ g·x − mean·Σ g would cancel badly: a second loop over the centred row instead.
            let mut along = 0.0;
            for (dx, x) in dx.chunks(64).zip(x.chunks(64)) {
                let mut centred = [0.0; 64];
                for (c, x) in centred.iter_mut().zip(x) {
                    *c = x - mean;
                }
                along += dot::<FMA>(dx, &centred[..x.len()]);
            }
            let factor = along / width as f32 * inverse * inverse;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = mul_add::<FMA>(mean - x, factor, *dx - gradient_mean) * inverse;
            }
        }
    }

    fn parameter_rows<FMA>(
        x: &[f32], mean: &[f32], inverse_std: &[f32], dout: &[f32], dscale: &mut [f32], dbias: &mut [f32],
    ) {
        let width = dscale.len();
        let rows = x.chunks_exact(width).zip(dout.chunks_exact(width));
        for ((x, dout), (&mean, &inverse)) in rows.zip(mean.iter().zip(inverse_std)) {
            for (((dscale, dbias), x), dout) in dscale.iter_mut().zip(dbias.iter_mut()).zip(x).zip(dout) {
                *dscale = mul_add::<FMA>((x - mean) * inverse, *dout, *dscale);
                *dbias += dout;
            }
        }
    }
}
