//! Tiles and packing for each instruction set.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;

use super::dots::dots;
use super::pack;
use super::tile::{Tile, tile};
use super::vector::{Four, Vector};
use crate::gemm::matrix::Matrix;
use crate::gemm::rows::Rows;

/// As [`pack::transposed`].
type Transposed = unsafe fn(&dyn Rows, usize, Range<usize>, &mut Vec<f32>, *mut f32);
/// As [`pack::plain`].
type Plain = unsafe fn(&dyn Rows, Range<usize>, Range<usize>, &mut Vec<f32>, *mut f32, usize);

/// What a product is made of on one instruction set. Its functions need that on the processor, and what the functions of [`pack`]
/// and [`super::tile`] need.
pub(super) struct Kernel {
    /// Rows of a tile.
    pub(super) rows: usize,
    /// Columns of a tile, and of a panel.
    pub(super) columns: usize,
    /// Panels that a task packs at once. With their longest columns they fill some 60 % of the second-level cache that processors
    /// of this instruction set have at least: 1 MiB with AVX-512, 512 KiB with AVX2.
    pub(super) task_panels: usize,
    /// As [`tile`].
    pub(super) tile: unsafe fn(&Tile),
    /// As [`dots`].
    pub(super) dots: unsafe fn(&Matrix, &[f32], &mut [f32]),
    /// Into panels of [`Kernel::columns`].
    pub(super) transposed: Transposed,
    /// Into panels of [`Kernel::columns`].
    pub(super) right: Plain,
    /// Into panels of [`Kernel::rows`].
    pub(super) left: Plain,
}

/// A [`Kernel`] of tiles of `$rows` rows of `$vectors` vectors, with functions that enable some features.
macro_rules! kernel {
    ($kernel:ident, $vector:ty, $rows:literal x $vectors:literal, $panels:literal $(, #[$features:meta])?) => {
        static $kernel: Kernel = {
            const COLUMNS: usize = $vectors * <$vector>::LANES;
            $(#[$features])?
            unsafe fn run(one: &Tile) {
                // SAFETY: passed on.
                unsafe { tile::<$vector, $rows, $vectors>(one) }
            }
            $(#[$features])?
            unsafe fn dots_of_row(rows: &Matrix, row: &[f32], out: &mut [f32]) {
                // SAFETY: passed on.
                unsafe { dots::<$vector>(rows, row, out) }
            }
            $(#[$features])?
            unsafe fn transposed(
                source: &dyn Rows,
                first: usize,
                inner: Range<usize>,
                scratch: &mut Vec<f32>,
                out: *mut f32,
            ) {
                // SAFETY: passed on.
                unsafe { pack::transposed::<$vector, COLUMNS>(source, first, inner, scratch, out) }
            }
            $(#[$features])?
            unsafe fn plain<const WIDTH: usize>(
                source: &dyn Rows,
                columns: Range<usize>,
                inner: Range<usize>,
                scratch: &mut Vec<f32>,
                out: *mut f32,
                panel: usize,
            ) {
                // SAFETY: passed on.
                unsafe { pack::plain::<WIDTH>(source, columns, inner, scratch, out, panel) }
            }
            Kernel {
                rows: $rows,
                columns: COLUMNS,
                task_panels: $panels,
                tile: run,
                dots: dots_of_row,
                transposed,
                right: plain::<COLUMNS>,
                left: plain::<$rows>,
            }
        };
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(AVX512, __m512, 8 x 3, 2, #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
kernel!(AVX2, __m256, 6 x 2, 3, #[target_feature(enable = "avx2,fma")]);
kernel!(BASELINE, Four, 6 x 2, 6);

impl Kernel {
    /// Those that this processor runs, the best last.
    #[cfg(test)]
    pub(super) fn all() -> Vec<&'static Self> {
        let mut all = vec![&BASELINE];
        #[cfg(target_arch = "x86_64")]
        {
            use crate::dispatch::{Level, level};
            if level() >= Level::Avx2 {
                all.push(&AVX2);
            }
            if level() >= Level::Avx512 {
                all.push(&AVX512);
            }
        }
        all
    }

    /// The best for this processor.
    pub(super) fn best() -> &'static Self {
        #[cfg(target_arch = "x86_64")]
        match crate::dispatch::level() {
            crate::dispatch::Level::Avx512 => return &AVX512,
            crate::dispatch::Level::Avx2 => return &AVX2,
            crate::dispatch::Level::Baseline => {}
        }
        &BASELINE
    }
}
