//! Where the products go.

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::tile::Target;
use crate::gemm::MatrixMut;

/// Where a product goes.
#[derive(Debug)]
pub enum Output<'a> {
    /// f32, in place of what is there.
    F32(MatrixMut<'a>),
    /// f32, added to what is there.
    AddF32(MatrixMut<'a>),
    /// Rounded to bf16, in place of what is there.
    Bf16(MatrixMut<'a, bf16>),
    /// Added to what is there, and rounded to bf16.
    AddBf16(MatrixMut<'a, bf16>),
}

impl Output<'_> {
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::F32(c) | Self::AddF32(c) => c.rows(),
            Self::Bf16(c) | Self::AddBf16(c) => c.rows(),
        }
    }

    pub(super) fn columns(&self) -> usize {
        match self {
            Self::F32(c) | Self::AddF32(c) => c.columns(),
            Self::Bf16(c) | Self::AddBf16(c) => c.columns(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn target(self) -> Target {
        let f32 = |mut c: MatrixMut, accumulate| {
            let (row_stride, c) = (c.row_stride().unsigned_abs(), c.as_mut_ptr());
            Target::F32 { row_stride, c, add: if accumulate { c.cast_const() } else { std::ptr::null() } }
        };
        let bf16 = |mut c: MatrixMut<bf16>, accumulate| {
            let row_stride = c.row_stride().unsigned_abs();
            Target::Bf16 { row_stride, c: c.as_mut_ptr(), accumulate }
        };
        match self {
            Self::F32(c) => f32(c, false),
            Self::AddF32(c) => f32(c, true),
            Self::Bf16(c) => bf16(c, false),
            Self::AddBf16(c) => bf16(c, true),
        }
    }
}

/// One of the weight gradients that [`tn`](super::tn) computes.
#[derive(Debug)]
pub struct Part<'a> {
    /// The first of the columns of `a` that it belongs to; it has as many as `c` has rows.
    pub first: usize,
    /// The gradient `[n, k]`.
    pub c: MatrixMut<'a>,
    /// Whether it is added to what `c` holds.
    pub accumulate: bool,
}
