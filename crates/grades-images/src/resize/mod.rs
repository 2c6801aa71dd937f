//! Antialiased resizing, to the last bit as the two backends of the reference processors do it.
//!
//! A pixel of the result is a weighted sum of the pixels beneath it, first along one axis and then along the other, with a
//! filter that is as wide as the picture shrinks. Pillow and torchvision share that; they differ in how weights are rounded,
//! and in which axis comes first. Sources: Pillow's `Resample.c`; PyTorch's `UpSampleKernel.cpp` and
//! `UpSampleKernelAVXAntialias.h`, which torchvision's `resize` calls for bytes.

mod passes;
mod weights;

use passes::{Bytes, Numbers, both};
use weights::{Spans, fixed_point, widest_bits};

use crate::Picture;

/// How the pixels beneath a pixel are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A triangle, one pixel to each side.
    Bilinear,
    /// Cubic convolution with a = −1/2, two pixels to each side.
    Bicubic,
}

/// Whose rounding and order of passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backend {
    /// Pillow 13: what processors of transformers 4 use, and nanoVLM always.
    Pillow,
    /// torchvision's kernel for bytes: what processors of transformers 5 use unless told otherwise.
    #[default]
    Torchvision,
}

/// Bits after the point of Pillow's weights.
const PILLOW_BITS: u32 = 22;

/// The picture in another size.
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter, backend: Backend) -> Picture {
    let (width, height) = (width.max(1), height.max(1));
    let across = Spans::new(filter, picture.width(), width);
    let down = Spans::new(filter, picture.height(), height);
    let axis = |spans: Spans<f64>| {
        let bits = match backend {
            Backend::Pillow => PILLOW_BITS,
            Backend::Torchvision => widest_bits(&spans),
        };
        Bytes { spans: fixed_point(&spans, bits), bits }
    };
    let down_first = backend == Backend::Pillow && pillow_goes_down_first(picture, width, height);
    Picture::of(width, height, both(picture.rgb(), &axis(across), &axis(down), down_first))
}

/// The numbers `[height, width, 3]` in another size, in f32 and unrounded: PyTorch's `interpolate` with `antialias`.
/// `values` has `from.0 · from.1 · 3` numbers, `from` and `to` are width and height.
pub fn resize_values(values: &[f32], from: (usize, usize), to: (usize, usize), filter: Filter) -> Vec<f32> {
    let axis = |from, to: usize| Numbers { spans: Spans::new(filter, from, to.max(1)).map(|w| w as f32) };
    both(values, &axis(from.0, to.0), &axis(from.1, to.1), false)
}

/// Pillow 13 goes down first where that leaves it much less to do: where rows shrink by more than twice as many pixels as columns.
fn pillow_goes_down_first(picture: &Picture, width: usize, height: usize) -> bool {
    let fewer = |from: usize, to: usize| from as i64 - to as i64;
    let (across, down) = (fewer(picture.width(), width), fewer(picture.height(), height));
    down > 0 && down > 2 * across
}

#[cfg(test)]
mod tests;
