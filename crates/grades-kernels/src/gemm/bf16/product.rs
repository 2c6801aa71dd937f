//! Products with a weight: it is packed panel by panel, the left operand is read where it lies.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::pack;
use super::tile::{COLUMNS, Left, Pair, Target};
use super::unit::{Unit, pad, with_best};
use crate::element::convert_into;
use crate::gemm::panels::{Packed, tasks};
use crate::gemm::rows::{Rows, Stack};
use crate::gemm::{Blocks, Matrix, Sizes};
use crate::threads::{Shared, each, each_with, threads};

/// The right operand `[k, n]`.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    /// The transpose of a stack `[n, k]`.
    Transposed(&'a Stack<'a>),
    /// A stack `[k, n]`.
    Plain(&'a Stack<'a>),
}

/// Most of the inner dimension that is packed at once: two panels of it fill little more than half of a second-level cache of
/// 1 MiB.
pub(super) const INNER: usize = 3072;

impl Operand<'_> {
    fn columns(&self) -> usize {
        match self {
            Self::Transposed(stack) => stack.rows(),
            Self::Plain(stack) => stack.columns(),
        }
    }

    /// Packs panels `panels` of rows `inner`, each `panel_pairs` pairs after the one before.
    ///
    /// # Safety
    /// As the functions of [`pack`].
    unsafe fn pack(
        &self,
        panels: Range<usize>,
        inner: Range<usize>,
        scratch: &mut Vec<f32>,
        out: *mut u32,
        panel_pairs: usize,
    ) {
        // SAFETY: passed on.
        unsafe {
            match self {
                Self::Transposed(stack) => {
                    for (i, panel) in panels.enumerate() {
                        pack::transposed(stack, panel, inner.clone(), scratch, out.add(i * panel_pairs));
                    }
                }
                Self::Plain(stack) => {
                    let columns = panels.start * COLUMNS..stack.columns().min(panels.end * COLUMNS);
                    pack::plain(stack, columns, inner, scratch, out, panel_pairs);
                }
            }
        }
    }
}

/// `a · b + bias` into `target`, where `bias` may be empty. The processor has AVX512-BF16.
///
/// # Safety
/// The shapes fit, and the target takes `[rows of a, columns of b]`, which nothing else reads or writes. Unless it
/// accumulates, it need not be initialised; every element of it is written.
pub(super) unsafe fn product(a: Matrix<bf16>, b: Operand, bias: &[f32], target: Target) {
    // SAFETY: passed on; the unit is this processor's.
    with_best!(U => unsafe { product_by::<U>(a, b, bias, target) })
}

/// [`product`] by one unit.
///
/// # Safety
/// As [`product`], and the processor has the unit.
pub(super) unsafe fn product_by<U: Unit>(a: Matrix<bf16>, b: Operand, bias: &[f32], target: Target) {
    let (m, n, k) = (a.rows(), b.columns(), a.columns());
    if m == 0 || n == 0 {
        return;
    }
    // Pairs are read from the rows themselves, so a row must hold whole pairs.
    let padded;
    let a = if k.is_multiple_of(2) {
        a
    } else {
        padded = (0..m).flat_map(|i| a.row(i).iter().copied().chain([bf16::ZERO])).collect::<Vec<_>>();
        Matrix::new(&padded, m, k + 1)
    };
    let product = Product { a, b, bias };
    if k <= INNER {
        return product.pass::<U>(0..k, target);
    }
    // Sums over several blocks of the inner dimension stay in f32. The blocks one after the other for all of the result, so
    // that threads read the same block of `a`, from the cache.
    let mut sums = Vec::new();
    let whole = match target {
        Target::F32 { .. } => target,
        Target::Bf16 { .. } => {
            sums.reserve_exact(m * n);
            Target::F32 { c: sums.as_mut_ptr(), row_stride: n, add: std::ptr::null() }
        }
    };
    for start in (0..k).step_by(INNER) {
        let target = match whole {
            Target::F32 { c, row_stride, .. } if start > 0 => Target::F32 { c, row_stride, add: c.cast_const() },
            first => first,
        };
        product.pass::<U>(start..k.min(start + INNER), target);
    }
    if let Target::Bf16 { c, row_stride, accumulate } = target {
        // SAFETY: there is room for `m · n` elements, and the first pass has written each of them.
        unsafe { sums.set_len(m * n) };
        let c = Shared(c);
        each(sums.chunks_exact_mut(n).enumerate(), |(i, sums)| {
            // SAFETY: this row of the result is this item's alone, and need not be initialised where it is written only.
            let c: &mut [MaybeUninit<bf16>] =
                unsafe { std::slice::from_raw_parts_mut(c.get().add(i * row_stride).cast(), n) };
            if accumulate {
                // SAFETY: what a product is added to holds values.
                let before = unsafe { c.assume_init_ref() };
                sums.iter_mut().zip(before).for_each(|(sum, c)| *sum += c.to_f32());
            }
            convert_into(sums, c);
        });
    }
}

struct Product<'a> {
    /// `[m, k]`, k even.
    a: Matrix<'a, bf16>,
    b: Operand<'a>,
    bias: &'a [f32],
}

impl Product<'_> {
    /// Sums over rows `inner` of `b`, and the bias with the first of them, into `target`.
    fn pass<U: Unit>(&self, inner: Range<usize>, target: Target) {
        let panels = self.b.columns().div_ceil(COLUMNS);
        let Sizes { panels: most, rows: least, .. } = Blocks::current().bf16;
        let (threads, in_groups) = (threads(), panels.div_ceil(most));
        let even = in_groups.is_multiple_of(threads) || in_groups >= 4 * threads;
        let each_task = if even || panels < threads { most } else { 1 };
        let shared = Shared((self, target));
        // SAFETY: `product_by` is called where the processor has the unit.
        let init = || (unsafe { U::new() }, Packed::default());
        each_with(
            tasks(self.a.rows(), panels.div_ceil(each_task), U::ROWS, least),
            init,
            |(unit, packed), (group, rows)| {
                let (product, target) = shared.get();
                let panels = group * each_task..panels.min((group + 1) * each_task);
                product.run(unit, packed, inner.clone(), (panels, each_task), rows, target);
            },
        );
    }

    /// The part of it in `rows` and the columns of `panels`, of which a task has at most `most`.
    fn run<U: Unit>(
        &self,
        unit: &mut U,
        packed: &mut Packed<Pair>,
        inner: Range<usize>,
        (panels, most): (Range<usize>, usize),
        rows: Range<usize>,
        target: Target,
    ) {
        let (n, first) = (self.b.columns(), panels.start * COLUMNS);
        let pairs = inner.len().div_ceil(2);
        let panel_pairs = pairs.next_multiple_of(U::PAIRS) * COLUMNS;
        let bias = if self.bias.is_empty() || inner.start > 0 { std::ptr::null() } else { self.bias.as_ptr() };
        // SAFETY: `product_by` is called where the processor has AVX512-BF16 and the unit. The buffer has room for the panels, which are
        // packed before they are read. Each tile lies within the rows and columns of this task, its rows of `a` have
        // `pairs` pairs from the start of the block on, and the bias has an element for each column.
        unsafe {
            let target = target.at(rows.start, first);
            let b = packed.panels(most * panel_pairs, panels.start, |scratch, b| {
                self.b.pack(panels.clone(), inner.clone(), scratch, b, panel_pairs);
                pad(b, panels.len(), pairs, panel_pairs);
            });
            for i in (0..rows.len()).step_by(U::ROWS) {
                let count = U::ROWS.min(rows.len() - i);
                let row_stride = self.a.row_stride().unsigned_abs();
                let start = self.a.as_ptr().add((rows.start + i) * row_stride + inner.start);
                let a = Left { start, row_stride, pair_stride: 2 };
                for panel in 0..panels.len() {
                    let column = panel * COLUMNS;
                    let bias = if bias.is_null() { bias } else { bias.add(first + column) };
                    let columns = COLUMNS.min(n - first - column);
                    let b = b.add(panel * panel_pairs);
                    unit.tile((count, columns), pairs, a, b, bias, target.at(i, column));
                }
            }
        }
    }
}
