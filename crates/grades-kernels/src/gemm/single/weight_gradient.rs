//! Weight gradients: both operands are packed, the right one once for all tasks. One that is used for a single tile is read where
//! it lies instead.

use std::ops::Range;

use super::kernel::Kernel;
use super::tile::{Left, Right, Target, Tile};
use crate::gemm::blocks::{Blocks, Sizes};
use crate::gemm::matrix::Matrix;
use crate::gemm::panels::{Buffer, LAST, Packed};
use crate::gemm::rows::Rows;
use crate::threads::{Shared, each_with, ends_a_part};

/// Rows of the batch that are packed at once: a panel of them fills a fifth of a second-level cache of 1 MiB.
const INNER: usize = 1024;

/// The part of a product that one result holds: `rows` columns of `a` from `first` on.
pub(crate) struct Piece {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) target: Target,
}

/// Rows of the result that belong to one task.
struct Task {
    /// The columns of `a`.
    columns: Range<usize>,
    /// The first of the rows.
    target: Target,
}

/// `aᵀ · b` of each piece.
///
/// # Safety
/// The shapes fit, and each target takes `[rows, columns of b]`, which nothing else reads or writes. Unless it accumulates, it need
/// not be initialised; every element of it is written.
pub(crate) unsafe fn transposed_product(a: &dyn Rows, b: &dyn Rows, pieces: &[Piece]) {
    // SAFETY: the caller's promise; the kernel is one of this processor's.
    unsafe { transposed_product_by(Kernel::best(), a, b, pieces) }
}

/// [`transposed_product`] by one kernel.
///
/// # Safety
/// As [`transposed_product`], and the processor runs the kernel.
pub(super) unsafe fn transposed_product_by(kernel: &Kernel, a: &dyn Rows, b: &dyn Rows, pieces: &[Piece]) {
    let (tokens, n) = (a.rows(), b.columns());
    if n == 0 {
        return;
    }
    let Sizes { panels: most, gradient_rows: task_rows, .. } = Blocks::current().f32;
    let mut tasks = Vec::new();
    for &Piece { first, rows, target } in pieces {
        for row in (0..rows).step_by(task_rows) {
            let columns = first + row..first + rows.min(row + task_rows);
            // SAFETY: the row lies within the part.
            tasks.push(Shared(Task { columns, target: unsafe { target.at(row, 0) } }));
        }
    }
    let panels = n.div_ceil(kernel.columns);
    let used_once = pieces.iter().map(|piece| piece.rows).sum::<usize>() <= kernel.rows;
    let b_in_place = b.dense().filter(|_| used_once);
    let first_packed = if b_in_place.is_some() { n / kernel.columns } else { 0 };
    let mut buffer = Buffer::<f32>::new(panels * kernel.columns * tokens.min(INNER));
    // Once for a batch of nothing as well: the result is then zero.
    for start in (0..tokens.max(1)).step_by(INNER) {
        let inner = start..tokens.min(start + INNER);
        let panel_len = inner.len() * kernel.columns;
        let right = Shared(buffer.as_mut_ptr());
        each_with((first_packed..panels).step_by(most), Vec::new, |scratch, panel| {
            let columns = panel * kernel.columns..n.min((panel + most) * kernel.columns);
            // SAFETY: the caller's promise; each panel has its place in the buffer.
            unsafe {
                let out = right.get().add(panel * panel_len);
                (kernel.right)(b, columns, inner.clone(), scratch, out, panel_len);
            }
        });
        // The last of each thread's part in pieces, so that threads end together.
        let pieces = |task| if ends_a_part(task, tasks.len()) { LAST.min(panels) } else { 1 };
        let split = |task| {
            let pieces = pieces(task);
            (0..pieces).map(move |piece| (task, panels * piece / pieces..panels * (piece + 1) / pieces))
        };
        let packed = right.get().cast_const();
        let pass = Pass { kernel, a, b_in_place, packed, inner, n, task_rows };
        let pass = Shared(&pass);
        each_with((0..tasks.len()).flat_map(split), Packed::default, |packed, (index, panels)| {
            pass.get().task(packed, index, &tasks[index].0, panels);
        });
    }
}

/// The sums over one block of the batch.
struct Pass<'a> {
    kernel: &'a Kernel,
    a: &'a dyn Rows,
    /// The right operand, where its whole panels are read from it.
    b_in_place: Option<Matrix<'a>>,
    /// All panels of the right operand, of which at least those are packed that are not read in place.
    packed: *const f32,
    inner: Range<usize>,
    /// Columns of the right operand.
    n: usize,
    /// Most rows of a task.
    task_rows: usize,
}

impl Pass<'_> {
    /// One panel of the right operand.
    ///
    /// # Safety
    /// There is such a panel.
    unsafe fn right(&self, panel: usize) -> Right {
        let column = panel * self.kernel.columns;
        // SAFETY: the panel lies within the operand, or its place within the buffer.
        unsafe {
            match self.b_in_place {
                Some(b) if column + self.kernel.columns <= self.n => {
                    let line = b.row_stride().unsigned_abs();
                    Right { start: b.as_ptr().add(self.inner.start * line + column), line }
                }
                _ => Right { start: self.packed.add(column * self.inner.len()), line: self.kernel.columns },
            }
        }
    }

    /// Rows `columns` of `aᵀ`, as tiles read them, and how far each tile is from the one before.
    fn left(&self, packed: &mut Packed<f32>, index: usize, columns: Range<usize>) -> (Left, usize) {
        let Self { kernel, a, ref inner, n, .. } = *self;
        match a.dense().filter(|_| n <= kernel.columns && !inner.is_empty() && !columns.is_empty()) {
            Some(a) => {
                let step = a.row_stride().unsigned_abs();
                let start = a.as_ptr().wrapping_add(inner.start * step + columns.start);
                (Left { start, row_stride: 1, step }, kernel.rows)
            }
            None => {
                let block = inner.len() * kernel.rows;
                let start = packed.panels(self.task_rows * inner.len(), index, |scratch, out| {
                    // SAFETY: the kernel is one of this processor's; there is room for all blocks of a task.
                    unsafe { (kernel.left)(a, columns, inner.clone(), scratch, out, block) };
                });
                (Left { start, row_stride: 1, step: kernel.rows }, block)
            }
        }
    }

    /// Columns `panels` of task `index`.
    fn task(&self, packed: &mut Packed<f32>, index: usize, task: &Task, panels: Range<usize>) {
        let Self { kernel, ref inner, n, .. } = *self;
        let target = Target { accumulate: task.target.accumulate || inner.start > 0, ..task.target };
        let rows = task.columns.len();
        let (left, block) = self.left(packed, index, task.columns.clone());
        for panel in panels {
            // SAFETY: the operands have been packed where they are not read in place. Each tile lies within this task's part of
            // the result.
            unsafe {
                let (right, column) = (self.right(panel), panel * kernel.columns);
                for row in (0..rows).step_by(kernel.rows) {
                    let start = left.start.add(row / kernel.rows * block);
                    (kernel.tile)(&Tile {
                        rows: kernel.rows.min(rows - row),
                        columns: kernel.columns.min(n - column),
                        inner: inner.len(),
                        left: Left { start, ..left },
                        right,
                        target: target.at(row, column),
                    });
                }
            }
        }
    }
}
