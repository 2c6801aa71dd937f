//! What multiplies tiles of a result: AVX512-BF16 or [AMX](super::amx). Drivers are generic over it; both read the same packed panels.

use std::ops::Range;

use half::bf16;

use super::amx::{self, Amx};
use super::pack;
use super::tile::{Left, Pair, ROWS, Target, tile};
use crate::gemm::Matrix;

/// What multiplies tiles, as one thread holds it during a job.
pub(super) trait Unit {
    /// Most rows of a tile.
    const ROWS: usize;
    /// Packed panels hold a whole multiple of as many pairs, with zeros behind the last.
    const PAIRS: usize;

    /// Readies the calling thread.
    ///
    /// # Safety
    /// The processor has the unit, and the process may use it.
    unsafe fn new() -> Self;

    /// As [`tile`], of up to [`Unit::ROWS`] rows and of a panel that [`Unit::PAIRS`] speaks of.
    ///
    /// # Safety
    /// As [`tile`]; pairs of `a` lie side by side, or are packed by [`Unit::pack_left`].
    unsafe fn tile(
        &mut self,
        size: (usize, usize),
        pairs: usize,
        a: Left,
        b: *const Pair,
        bias: *const f32,
        target: Target,
    );

    /// Room in pairs for `rows` packed rows of `pairs` pairs.
    fn left_room(rows: usize, pairs: usize) -> usize;

    /// Packs columns `columns` of rows `inner` of `a` as rows, which [`Unit::left`] finds.
    ///
    /// # Safety
    /// The processor has AVX512-BF16; `out`, at a multiple of 64 bytes, has the room of [`Unit::left_room`].
    unsafe fn pack_left(a: &Matrix<bf16>, columns: Range<usize>, inner: Range<usize>, out: *mut Pair);

    /// The packed rows from `row` on, a multiple of [`Unit::ROWS`].
    fn left(packed: *const Pair, row: usize, pairs: usize) -> Left;
}

/// The instruction that every processor here has.
pub(super) struct Avx512;

impl Unit for Avx512 {
    const ROWS: usize = ROWS;
    const PAIRS: usize = 1;

    unsafe fn new() -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn tile(
        &mut self,
        size: (usize, usize),
        pairs: usize,
        a: Left,
        b: *const Pair,
        bias: *const f32,
        target: Target,
    ) {
        // SAFETY: passed on.
        unsafe { tile(size, pairs, a, b, bias, target) }
    }

    fn left_room(rows: usize, pairs: usize) -> usize {
        rows.next_multiple_of(2 * ROWS) * pairs
    }

    unsafe fn pack_left(a: &Matrix<bf16>, columns: Range<usize>, inner: Range<usize>, out: *mut Pair) {
        let block_pairs = inner.len().div_ceil(2) * ROWS;
        // SAFETY: passed on; there is room for an even number of blocks.
        unsafe { pack::left(a, columns, inner, out, block_pairs) }
    }

    fn left(packed: *const Pair, row: usize, pairs: usize) -> Left {
        Left { start: packed.wrapping_add(row * pairs).cast(), row_stride: 2, pair_stride: 2 * ROWS }
    }
}

/// A function of a unit, run with the best one of this processor: `$body` with `$unit` as its type.
macro_rules! with_best {
    ($unit:ident => $body:expr) => {
        if $crate::gemm::bf16::unit::has_amx() {
            type $unit = $crate::gemm::bf16::amx::Amx;
            $body
        } else {
            type $unit = $crate::gemm::bf16::unit::Avx512;
            $body
        }
    };
}
pub(super) use with_best;

/// Whether products run on AMX.
pub(crate) fn has_amx() -> bool {
    amx::state() == amx::State::Works
}

/// Zeros behind the last pair of each of `panels` panels, as far as a unit reads.
///
/// # Safety
/// The panels lie `panel_pairs` pairs apart, and hold `pairs` lines of [`super::tile::COLUMNS`].
pub(super) unsafe fn pad(out: *mut Pair, panels: usize, pairs: usize, panel_pairs: usize) {
    let filled = pairs * super::tile::COLUMNS;
    for panel in 0..panels {
        // SAFETY: the rest of the panel.
        unsafe { out.add(panel * panel_pairs + filled).write_bytes(0, panel_pairs - filled) };
    }
}

const _: () = assert!(<Amx as Unit>::ROWS <= super::gated::MOST_ROWS && Avx512::ROWS <= super::gated::MOST_ROWS);
