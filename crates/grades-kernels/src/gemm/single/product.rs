//! Products with a weight: it is packed panel by panel, the left operand is read where it lies.

use std::ops::Range;

use half::bf16;

use super::kernel::Kernel;
use super::tile::{self, Target, Tile};
use crate::element::{Element, convert};
use crate::gemm::blocks::{Blocks, Sizes};
use crate::gemm::matrix::Matrix;
use crate::gemm::panels::{Packed, tasks};
use crate::gemm::rows::Rows;
use crate::threads::{Shared, each_with, threads};

/// The left operand `[m, k]`.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// f32.
    F32(Matrix<'a>),
    /// bf16, widened tile by tile.
    Bf16(Matrix<'a, bf16>),
}

/// The right operand `[k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    /// The matrix, or its transpose.
    pub(crate) matrix: &'a dyn Rows,
    /// Whether the operand is the transpose of the matrix.
    pub(crate) transposed: bool,
    /// Whether each number is rounded to bf16.
    pub(crate) rounded: bool,
}

/// A distance of 4 KiB: numbers that lie a multiple of it apart share a set of a first-level cache, which holds eight lines, so
/// that the rows of one tile would throw each other out.
const SAME_SET: usize = 1024;
/// Most of the inner dimension that is packed at once.
const INNER: usize = 1536;

impl Left<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::F32(a) => a.rows(),
            Self::Bf16(a) => a.rows(),
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::F32(a) => a.columns(),
            Self::Bf16(a) => a.columns(),
        }
    }

    /// Rows `rows` and columns `inner` as a tile reads them: where they lie, or copied into `scratch`.
    fn tile(&self, rows: Range<usize>, inner: Range<usize>, scratch: &mut Vec<f32>) -> tile::Left {
        match self {
            Self::F32(a) if a.row_stride().unsigned_abs().is_multiple_of(SAME_SET) => copied(a, rows, inner, scratch),
            Self::F32(a) => {
                let row_stride = a.row_stride().unsigned_abs();
                let start = a.as_ptr().wrapping_add(rows.start * row_stride + inner.start);
                tile::Left { start, row_stride, step: 1 }
            }
            Self::Bf16(a) => copied(a, rows, inner, scratch),
        }
    }
}

/// Rows `rows` and columns `inner` of `a` in `scratch`, as a tile reads them.
fn copied<E: Element>(a: &Matrix<E>, rows: Range<usize>, inner: Range<usize>, scratch: &mut Vec<f32>) -> tile::Left {
    /// So that these rows do not share a set either.
    const BETWEEN: usize = 16;
    let row_stride = inner.len().next_multiple_of(BETWEEN) + BETWEEN;
    scratch.resize(rows.len() * row_stride, 0.0);
    for (out, row) in scratch.chunks_exact_mut(row_stride).zip(rows) {
        convert(&a.row(row)[inner.clone()], &mut out[..inner.len()]);
    }
    tile::Left { start: scratch.as_ptr(), row_stride, step: 1 }
}

impl Right<'_> {
    fn columns(&self) -> usize {
        if self.transposed { self.matrix.rows() } else { self.matrix.columns() }
    }

    /// Packs panels `panels` of rows `inner`, each `panel` numbers after the one before.
    ///
    /// # Safety
    /// As the functions of [`Kernel`].
    unsafe fn pack(
        &self,
        kernel: &Kernel,
        panels: Range<usize>,
        inner: Range<usize>,
        scratch: &mut Vec<f32>,
        out: *mut f32,
        panel: usize,
    ) {
        // SAFETY: passed on.
        unsafe {
            if self.transposed {
                for (i, index) in panels.enumerate() {
                    let first = index * kernel.columns;
                    (kernel.transposed)(self.matrix, first, inner.clone(), scratch, out.add(i * panel));
                }
            } else {
                let columns = panels.start * kernel.columns..self.columns().min(panels.end * kernel.columns);
                (kernel.right)(self.matrix, columns, inner, scratch, out, panel);
            }
        }
    }
}

/// `a · b` into `target`.
///
/// # Safety
/// The shapes fit, and the target takes `[rows of a, columns of b]`, which nothing else reads or writes. Unless it accumulates,
/// it need not be initialised; every element of it is written.
pub(crate) unsafe fn product(a: Left, b: Right, target: Target) {
    // SAFETY: the caller's promise; the kernel is one of this processor's.
    unsafe { product_by(Kernel::best(), a, b, target) }
}

/// [`product`] by one kernel.
///
/// # Safety
/// As [`product`], and the processor runs the kernel.
pub(super) unsafe fn product_by(kernel: &Kernel, a: Left, b: Right, target: Target) {
    let (m, n, k) = (a.rows(), b.columns(), a.columns());
    if m == 0 || n == 0 {
        return;
    }
    // Once for an inner dimension of nothing as well: the result is then zero.
    for start in (0..k.max(1)).step_by(INNER) {
        let target = Target { accumulate: target.accumulate || start > 0, ..target };
        Pass { kernel, a, b, inner: start..k.min(start + INNER), target }.run();
    }
}

/// The sums over one block of the inner dimension.
struct Pass<'a> {
    kernel: &'a Kernel,
    a: Left<'a>,
    b: Right<'a>,
    inner: Range<usize>,
    target: Target,
}

impl Pass<'_> {
    fn run(&self) {
        let panels = self.b.columns().div_ceil(self.kernel.columns);
        let Sizes { panels: most, rows: least, .. } = Blocks::current().f32;
        let threads = threads();
        let groups = panels.div_ceil(most);
        let even = groups.is_multiple_of(threads) || groups >= 4 * threads;
        let each_task = if even || panels < threads { most } else { 1 };
        let shared = Shared(self);
        each_with(
            tasks(self.a.rows(), panels.div_ceil(each_task), self.kernel.rows, least),
            || (Packed::default(), Vec::new()),
            |(packed, widened), (group, rows)| {
                let panels = group * each_task..panels.min((group + 1) * each_task);
                shared.get().task(packed, widened, (panels, each_task), rows);
            },
        );
    }

    /// The right operand where it lies, if it can be read there, has whole panels up to `panels`, and is used for no more than one
    /// tile of rows: packing would take longer than the product.
    fn in_place(&self, panels: usize) -> Option<Matrix<'_>> {
        let once = self.a.rows() <= self.kernel.rows && !self.b.transposed && !self.b.rounded;
        self.b.matrix.dense().filter(|_| once && panels * self.kernel.columns <= self.b.columns())
    }

    /// The part of it in `rows` and the columns of `panels`, of which a task has at most `most`.
    fn task(
        &self,
        packed: &mut Packed<f32>,
        widened: &mut Vec<f32>,
        (panels, most): (Range<usize>, usize),
        rows: Range<usize>,
    ) {
        let Self { kernel, a, b, ref inner, target } = *self;
        let (n, panel_len) = (b.columns(), inner.len() * kernel.columns);
        // SAFETY: the panels lie within the operand, or the buffer has room for them, and they are packed before they are read.
        // Each tile lies within the rows and
        // columns of this task, and its rows of `a` have as many numbers as the panels have lines.
        unsafe {
            let (right, line, panel_len) = match self.in_place(panels.end) {
                Some(b) => {
                    let line = b.row_stride().unsigned_abs();
                    (b.as_ptr().add(inner.start * line + panels.start * kernel.columns), line, kernel.columns)
                }
                None => {
                    let room = most * panel_len;
                    let right = packed.panels(room, panels.start, |scratch, out| {
                        b.pack(kernel, panels.clone(), inner.clone(), scratch, out, panel_len);
                        if b.rounded {
                            round(std::slice::from_raw_parts_mut(out, panels.len() * panel_len));
                        }
                    });
                    (right, kernel.columns, panel_len)
                }
            };
            for first in rows.clone().step_by(kernel.rows) {
                let count = kernel.rows.min(rows.end - first);
                let left = a.tile(first..first + count, inner.clone(), widened);
                for (i, panel) in panels.clone().enumerate() {
                    let column = panel * kernel.columns;
                    (kernel.tile)(&Tile {
                        rows: count,
                        columns: kernel.columns.min(n - column),
                        inner: inner.len(),
                        left,
                        right: tile::Right { start: right.add(i * panel_len), line },
                        target: target.at(first, column),
                    });
                }
            }
        }
    }
}

crate::dispatch::multiversion! {
    /// Rounds each number to bf16.
    fn round<FMA>(numbers: &mut [f32]) {
        for number in numbers {
            *number = bf16::narrow(*number).widen();
        }
    }
}
