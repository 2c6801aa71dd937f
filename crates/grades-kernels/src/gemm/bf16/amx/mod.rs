//! Tiles on AMX: two tiles of rows times a panel of three tiles of columns.
//!
//! A tile register is 16 rows of 64 bytes. `tdpbf16ps` multiplies one of 16 rows of 16 pairs with one of 16 pairs of 16 columns, which
//! is what a packed panel holds anyway, and adds to one of 16 × 16 sums. Sums of a block of 32 × 48 lie in memory before and after the
//! loop over the inner dimension and in registers in between; how far a sum reaches decides in which order it is made, not where its
//! tile begins.
//!
//! The shapes of the tiles are loaded once per thread and job; the numbers in them never outlive one block of assembly, which names
//! the registers that it writes.

mod detection;
#[cfg(test)]
mod emulator;
mod program;
#[cfg(test)]
mod tests;

use std::arch::x86_64::{
    _mm512_load_ps, _mm512_maskz_loadu_ps, _mm512_setzero_ps, _mm512_store_ps, _mm512_store_si512,
};
use std::ops::Range;

use half::bf16;

pub(crate) use detection::{State, state};
use program::{Operands, Processor, Runner, Shapes};

use super::pack;
use super::tile::{COLUMNS, Left, Pair, Target, VECTORS, mask, store_bf16, store_f32};
use super::unit::Unit;
use crate::gemm::Matrix;
use crate::gemm::transpose::transpose;

/// Rows of a tile register, its pairs along the inner dimension, and its columns of sums.
const SIDE: usize = 16;
/// Rows of a block of the result: two tiles.
const ROWS: usize = 2 * SIDE;

#[repr(C, align(64))]
struct Sums([f32; ROWS * COLUMNS]);

/// The ends of rows that end within a tile.
#[repr(C, align(64))]
struct Ends([bf16; ROWS * 2 * SIDE]);

/// The unit, on what runs its program: the processor, or in tests an emulation of the instructions.
pub(super) struct Tiles<R> {
    runner: R,
    /// Rows of the two tiles that the runner was told last.
    rows: Option<[usize; 2]>,
    sums: Sums,
    ends: Ends,
}

/// The unit of the processor.
pub(super) type Amx = Tiles<Processor>;

impl<R: Runner> Unit for Tiles<R> {
    const ROWS: usize = ROWS;
    const PAIRS: usize = SIDE;

    unsafe fn new() -> Self {
        // SAFETY: passed on.
        let runner = unsafe { R::new() };
        Self { runner, rows: None, sums: Sums([0.0; ROWS * COLUMNS]), ends: Ends([bf16::ZERO; ROWS * 2 * SIDE]) }
    }

    unsafe fn tile(
        &mut self,
        (rows, columns): (usize, usize),
        pairs: usize,
        a: Left,
        b: *const Pair,
        bias: *const f32,
        target: Target,
    ) {
        debug_assert!(a.pair_stride == 2 && (1..=ROWS).contains(&rows) && (1..=COLUMNS).contains(&columns));
        // A tile of no rows cannot be used: where the second is empty, it gets one that nobody reads.
        let wanted = [rows.min(SIDE), rows.saturating_sub(SIDE).max(1)];
        let (whole, rest) = (pairs / SIDE, pairs % SIDE);
        // SAFETY: the rows of `a` hold `pairs` pairs, the panel as many lines and zeros up to the next multiple of `SIDE`.
        unsafe {
            if self.rows.replace(wanted) != Some(wanted) {
                self.runner.shape(&Shapes::new(wanted));
            }
            self.begin(rows, columns, bias);
            if whole > 0 {
                self.multiply((rows, columns), a.start, 2 * a.row_stride, b, whole);
            }
            if rest > 0 {
                let start = a.start.add(2 * SIDE * whole);
                for (row, end) in self.ends.0.chunks_exact_mut(2 * SIDE).enumerate().take(rows) {
                    let (numbers, zeros) = end.split_at_mut(2 * rest);
                    numbers.as_mut_ptr().copy_from_nonoverlapping(start.add(row * a.row_stride), 2 * rest);
                    zeros.fill(bf16::ZERO);
                }
                let ends = self.ends.0.as_ptr();
                self.multiply((rows, columns), ends, 4 * SIDE, b.add(whole * SIDE * COLUMNS), 1);
            }
            self.write(rows, columns, target);
        }
    }

    fn left_room(rows: usize, pairs: usize) -> usize {
        rows.next_multiple_of(SIDE) * left_line(pairs)
    }

    unsafe fn pack_left(a: &Matrix<bf16>, columns: Range<usize>, inner: Range<usize>, out: *mut Pair) {
        // SAFETY: passed on.
        unsafe { pack_left(a, columns, inner, out) }
    }

    fn left(packed: *const Pair, row: usize, pairs: usize) -> Left {
        let line = left_line(pairs);
        Left { start: packed.wrapping_add(row * line).cast(), row_stride: 2 * line, pair_stride: 2 }
    }
}

/// Pairs from one packed row to the next: whole tiles, and a cache line more, so that the rows of a tile do not share a set of the
/// cache.
fn left_line(pairs: usize) -> usize {
    pairs.next_multiple_of(SIDE) + SIDE
}

/// Packs columns `columns` of rows `inner` of `a` as rows [`left_line`] apart, with zeros behind the last pair up to a whole tile.
///
/// # Safety
/// The processor has AVX512-BF16; `out`, at a multiple of 64 bytes, takes whole tiles of rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_left(a: &Matrix<bf16>, columns: Range<usize>, inner: Range<usize>, out: *mut Pair) {
    let (interleave, line) = (pack::interleaving(), left_line(inner.len().div_ceil(2)));
    for (tile, row) in inner.clone().step_by(2 * SIDE).enumerate() {
        for (block, column) in columns.clone().step_by(SIDE).enumerate() {
            // SAFETY: what lies outside of the matrix reads as zeros; the tile lies within the rows.
            unsafe {
                let pairs =
                    std::array::from_fn(|pair| pack::interleaved(a, row + 2 * pair, inner.end, column, interleave));
                for (i, numbers) in transpose(pairs).into_iter().enumerate() {
                    let at = out.add((block * SIDE + i) * line + tile * SIDE);
                    _mm512_store_si512(at.cast(), numbers);
                }
            }
        }
    }
}

impl<R: Runner> Tiles<R> {
    /// `sums += a · b` over `steps` tiles of pairs; rows of `a` lie `stride` bytes apart.
    ///
    /// # Safety
    /// The operands hold so many; the shapes are those of the rows.
    unsafe fn multiply(
        &mut self,
        (rows, columns): (usize, usize),
        upper: *const bf16,
        stride: usize,
        b: *const Pair,
        steps: usize,
    ) {
        let lower = if rows > SIDE { upper.wrapping_byte_add(SIDE * stride) } else { upper };
        let sums = self.sums.0.as_mut_ptr();
        let first = Operands { upper, lower, stride, b, sums, steps };
        // SAFETY: the caller's promise; both parts of the columns lie within the panel and the sums.
        unsafe {
            if columns > SIDE {
                self.runner.wide(first);
            } else {
                self.runner.narrow(first);
            }
            if columns > 2 * SIDE {
                self.runner.narrow(Operands { b: b.add(2 * SIDE), sums: sums.add(2 * SIDE), ..first });
            }
        }
    }

    /// Sums begin with the bias.
    ///
    /// # Safety
    /// As [`Unit::tile`].
    unsafe fn begin(&mut self, rows: usize, columns: usize, bias: *const f32) {
        // SAFETY: the caller's promise.
        unsafe { begin(&mut self.sums, rows, columns, bias) }
    }

    /// Writes the sums to where they go.
    ///
    /// # Safety
    /// As [`Unit::tile`].
    unsafe fn write(&self, rows: usize, columns: usize, target: Target) {
        // SAFETY: the caller's promise.
        unsafe { write(&self.sums, rows, columns, target) }
    }
}

/// # Safety
/// As [`Unit::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn begin(sums: &mut Sums, rows: usize, columns: usize, bias: *const f32) {
    // SAFETY: masks leave out what lies past the columns; the sums have three vectors a row.
    unsafe {
        let vector = |v: usize| match bias.is_null() {
            true => _mm512_setzero_ps(),
            false => _mm512_maskz_loadu_ps(mask(columns, v), bias.wrapping_add(SIDE * v)),
        };
        let vectors = [vector(0), vector(1), vector(2)];
        for row in sums.0.chunks_exact_mut(COLUMNS).take(rows) {
            for (v, vector) in vectors.into_iter().enumerate() {
                _mm512_store_ps(row.as_mut_ptr().add(SIDE * v), vector);
            }
        }
    }
}

/// # Safety
/// As [`Unit::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn write(sums: &Sums, rows: usize, columns: usize, target: Target) {
    let masks = [mask(columns, 0), mask(columns, 1), mask(columns, 2)];
    for (i, row) in sums.0.chunks_exact(COLUMNS).enumerate().take(rows) {
        // SAFETY: the caller's promise; the sums have three vectors a row.
        unsafe {
            let vector = |v: usize| _mm512_load_ps(row.as_ptr().add(SIDE * v));
            let sums = [vector(0), vector(1), vector(2)];
            match target {
                Target::F32 { c, row_stride, add } if add.is_null() => {
                    store_f32::<VECTORS, false>(c.add(i * row_stride), add, masks, sums);
                }
                Target::F32 { c, row_stride, add } => {
                    store_f32::<VECTORS, true>(c.add(i * row_stride), add.add(i * row_stride), masks, sums);
                }
                Target::Bf16 { c, row_stride, accumulate: false } => {
                    store_bf16::<VECTORS, false>(c.add(i * row_stride), masks, sums);
                }
                Target::Bf16 { c, row_stride, accumulate: true } => {
                    store_bf16::<VECTORS, true>(c.add(i * row_stride), masks, sums);
                }
            }
        }
    }
}
