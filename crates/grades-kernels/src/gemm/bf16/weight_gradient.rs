//! Weight gradients: both operands are packed, the right one once for all tasks.

use std::ops::Range;

use half::bf16;

use super::pack;
use super::tile::{COLUMNS, Pair, Target};
use super::unit::{Unit, pad, with_best};
use crate::gemm::panels::{Buffer, LAST, Packed};
use crate::gemm::{Blocks, Matrix};
use crate::threads::{Shared, each, each_with, ends_a_part};

/// Rows of the batch that are packed at once: a panel of them fills a tenth of a second-level cache.
const INNER: usize = 1024;

/// Rows of the result that belong to one task.
struct Task {
    /// The columns of `a`.
    columns: Range<usize>,
    /// The first of the rows.
    target: Target,
}

/// The part of a product that one result holds: `rows` columns of `a` from `first` on.
pub(super) struct Piece {
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) target: Target,
}

/// `aᵀ · b` of each piece. The processor has AVX512-BF16.
///
/// # Safety
/// The shapes fit, and each target takes `[rows, columns of b]`, which nothing else reads or writes. Unless it
/// accumulates, it need not be initialised; every element of it is written.
pub(super) unsafe fn product(a: Matrix<bf16>, b: Matrix<bf16>, pieces: Vec<Piece>) {
    // SAFETY: passed on; the unit is this processor's.
    with_best!(U => unsafe { product_by::<U>(a, b, pieces) })
}

/// [`product`] by one unit.
///
/// # Safety
/// As [`product`], and the processor has the unit.
pub(super) unsafe fn product_by<U: Unit>(a: Matrix<bf16>, b: Matrix<bf16>, pieces: Vec<Piece>) {
    let (tokens, n) = (a.rows(), b.columns());
    if n == 0 {
        return;
    }
    let task_rows = Blocks::current().bf16.gradient_rows;
    let mut tasks = Vec::new();
    for Piece { first, rows, target } in pieces {
        for row in (0..rows).step_by(task_rows) {
            let columns = first + row..first + rows.min(row + task_rows);
            // SAFETY: the row lies within the part.
            tasks.push(Shared(Task { columns, target: unsafe { target.at(row, 0) } }));
        }
    }
    let panels = n.div_ceil(COLUMNS);
    let panel_pairs = tokens.clamp(1, INNER).div_ceil(2).next_multiple_of(U::PAIRS) * COLUMNS;
    let mut buffer = Buffer::<Pair>::new(panels * panel_pairs);
    // Once for a batch of nothing as well: the result is then zero.
    for start in (0..tokens.max(1)).step_by(INNER) {
        let inner = start..tokens.min(start + INNER);
        let right = Shared(buffer.as_mut_ptr());
        each(0..panels, |panel| {
            // SAFETY: `product_by` is called where the processor has AVX512-BF16; each panel has its place in the buffer.
            unsafe {
                let out = right.get().add(panel * panel_pairs);
                pack::right(&b, panel, inner.clone(), out);
                pad(out, 1, inner.len().div_ceil(2), panel_pairs);
            }
        });
        // The last of each thread's part in pieces, so that threads end together.
        let pieces = |task| if ends_a_part(task, tasks.len()) { LAST.min(panels) } else { 1 };
        let split = |task| {
            let pieces = pieces(task);
            (0..pieces).map(move |piece| (task, panels * piece / pieces..panels * (piece + 1) / pieces))
        };
        // SAFETY: `product_by` is called where the processor has the unit.
        let init = || (unsafe { U::new() }, Packed::default());
        each_with((0..tasks.len()).flat_map(split), init, |(unit, packed), (index, panels)| {
            run(
                unit,
                packed,
                &a,
                inner.clone(),
                (index, task_rows, &tasks[index].0),
                panels,
                (right.get().cast_const(), panel_pairs),
                n,
            );
        });
    }
}

/// Columns `panels` of task `index`, which like all has at most `task_rows` rows, over the rows `inner` of the batch; `right` are all panels of the right operand and their
/// distance.
#[expect(clippy::too_many_arguments, reason = "the parts of one task")]
fn run<U: Unit>(
    unit: &mut U,
    packed: &mut Packed<Pair>,
    a: &Matrix<bf16>,
    inner: Range<usize>,
    (index, task_rows, task): (usize, usize, &Task),
    panels: Range<usize>,
    right: (*const Pair, usize),
    n: usize,
) {
    let pairs = inner.len().div_ceil(2);
    let target = match task.target {
        Target::F32 { c, row_stride, .. } if inner.start > 0 => Target::F32 { c, row_stride, add: c.cast_const() },
        first => first,
    };
    let rows = task.columns.len();
    // SAFETY: the processor has AVX512-BF16 and the unit. The buffer has room for all rows, which are packed before they are read; the panels have been packed. Each tile lies within this task's part of the result.
    unsafe {
        let start = packed.panels(U::left_room(task_rows, pairs), index, |_, start| {
            U::pack_left(a, task.columns.clone(), inner, start);
        });
        for panel in panels {
            let (b, column) = (right.0.add(panel * right.1), panel * COLUMNS);
            for i in (0..rows).step_by(U::ROWS) {
                let size = (U::ROWS.min(rows - i), COLUMNS.min(n - column));
                let a = U::left(start, i, pairs);
                unit.tile(size, pairs, a, b, std::ptr::null(), target.at(i, column));
            }
        }
    }
}
