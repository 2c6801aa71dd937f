//! The innermost loop: one tile of the result in registers.

use super::vector::Vector;
use crate::prefetch::expect_line;

/// Most rows of a tile, and most vectors of one of its rows.
const MAX_ROWS: usize = 8;
const MAX_VECTORS: usize = 3;
/// Most columns of a tile.
const MAX_COLUMNS: usize = 16 * MAX_VECTORS;
/// Lines of the right operand that are asked for ahead of the one that is read: a panel comes from the second-level cache, and
/// the processor itself looks ahead too little.
const AHEAD: usize = 16;

/// The left operand of a tile: number `p` of row `i` lies at `start + i · row_stride + p · step`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) start: *const f32,
    pub(super) row_stride: usize,
    pub(super) step: usize,
}

/// The right operand of a tile: number `j` of line `p` lies at `start + p · line + j`. Lines are as long as a whole panel's.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub(super) start: *const f32,
    pub(super) line: usize,
}

/// Where a product goes: in place of what is there, or added to it.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) c: *mut f32,
    pub(crate) row_stride: usize,
    pub(crate) accumulate: bool,
}

impl Target {
    /// The same, `rows` and `columns` further.
    ///
    /// # Safety
    /// The result must stay within the matrix.
    #[inline(always)]
    pub(super) unsafe fn at(self, rows: usize, columns: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { c: unsafe { self.c.add(rows * self.row_stride + columns) }, ..self }
    }
}

/// One tile: `rows` and `columns` of the result, at least one each, and the numbers that each is summed over.
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) inner: usize,
    pub(super) left: Left,
    pub(super) right: Right,
    pub(super) target: Target,
}

/// `$body` for each row of a tile of `$count`, with `$row` as a constant. A loop over the sums would make an array in memory of
/// them, which the inner loop then writes again and again; only constants as indices keep them in registers for certain.
macro_rules! each_row {
    ($count:ident, $row:ident => $body:expr) => {
        each_row!(@ $count, $row => $body, 0 1 2 3 4 5 6 7)
    };
    (@ $count:ident, $row:ident => $body:expr, $($index:literal)*) => {$(
        if $index < $count {
            const $row: usize = $index;
            $body
        }
    )*};
}

/// Computes a tile of at most `R` rows and `N` vectors of columns.
///
/// # Safety
/// The processor has the vector's instruction set, which the calling function enables. `left` reaches `rows` rows of `inner`
/// numbers, `right` as many lines of `N` vectors, and each row of the target `columns` numbers, which hold values if it accumulates; nothing
/// else reads or writes that part of the target.
#[inline(always)]
pub(super) unsafe fn tile<V: Vector, const R: usize, const N: usize>(tile: &Tile) {
    const { assert!(N <= MAX_VECTORS) };
    // SAFETY: passed on.
    unsafe {
        match tile.columns.div_ceil(V::LANES) {
            ..=1 => fixed::<V, R, 1>(tile),
            2 => fixed::<V, R, 2>(tile),
            _ => fixed::<V, R, N>(tile),
        }
    }
}

/// # Safety
/// As [`tile`], with at most `W` vectors of columns.
#[inline(always)]
unsafe fn fixed<V: Vector, const R: usize, const W: usize>(tile: &Tile) {
    const { assert!(R <= MAX_ROWS && W * V::LANES <= MAX_COLUMNS) };
    let &Tile { rows, columns, inner, left, right, target } = tile;
    // SAFETY: the offsets stay within what the caller promised for `left`, `right` and `target`.
    unsafe {
        // Rows that are missing are computed from the last one, and not written.
        let starts: [*const f32; MAX_ROWS] =
            std::array::from_fn(|i| left.start.add(i.min(R).min(rows - 1) * left.row_stride));
        let mut sums = [[V::zero(); MAX_VECTORS]; MAX_ROWS];
        let (mut at, mut panel) = (0, right.start);
        for _ in 0..inner {
            let ahead = panel.wrapping_add(AHEAD * right.line);
            expect_line(ahead);
            let mut line = [V::load(panel); MAX_VECTORS];
            if W > 1 {
                line[1] = V::load(panel.add(V::LANES));
                expect_line(ahead.wrapping_add(V::LANES));
            }
            if W > 2 {
                line[2] = V::load(panel.add(2 * V::LANES));
                expect_line(ahead.wrapping_add(2 * V::LANES));
            }
            each_row!(R, I => {
                let factor = V::splat(starts[I].add(at));
                sums[I][0] = factor.mul_add(line[0], sums[I][0]);
                if W > 1 {
                    sums[I][1] = factor.mul_add(line[1], sums[I][1]);
                }
                if W > 2 {
                    sums[I][2] = factor.mul_add(line[2], sums[I][2]);
                }
            });
            at += left.step;
            panel = panel.wrapping_add(right.line);
        }
        if columns == W * V::LANES {
            each_row!(R, I => if I < rows {
                write::<V, W>(sums[I], target.c.add(I * target.row_stride), target.accumulate);
            });
        } else {
            each_row!(R, I => if I < rows {
                let mut row = [0.0; MAX_COLUMNS];
                write::<V, W>(sums[I], row.as_mut_ptr(), false);
                let c = target.c.add(I * target.row_stride);
                for (j, sum) in row[..columns].iter().enumerate() {
                    *c.add(j) = if target.accumulate { *c.add(j) + sum } else { *sum };
                }
            });
        }
    }
}

/// Writes `W` vectors, or adds them to what is there.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn write<V: Vector, const W: usize>(sums: [V; MAX_VECTORS], c: *mut f32, accumulate: bool) {
    for (v, sum) in sums.into_iter().enumerate().take(W) {
        // SAFETY: the caller's promise.
        unsafe {
            let c = c.add(v * V::LANES);
            let sum = if accumulate { V::load(c).plus(sum) } else { sum };
            sum.store(c);
        }
    }
}
