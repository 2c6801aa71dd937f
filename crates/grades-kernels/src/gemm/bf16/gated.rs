//! The first half of a gated MLP in one: `y = activation(x · Wᵍᵀ) · (x · Wᵘᵀ)`, each tile activated while it is in the cache.

#[cfg(target_arch = "x86_64")]
use std::ops::Range;

use half::bf16;

use super::products::nt_new;
#[cfg(target_arch = "x86_64")]
use super::{
    pack,
    product::INNER,
    products::is_native,
    tile::{COLUMNS, Left, Pair, Target},
    unit::{Unit, pad, with_best},
};
#[cfg(target_arch = "x86_64")]
use crate::activations::gate_row;
use crate::activations::{Activation, gated_joined_new};
use crate::gemm::Matrix;
use crate::gemm::rows::Rows;
#[cfg(target_arch = "x86_64")]
use crate::gemm::{
    Blocks,
    panels::{Packed, tasks},
    rows::Stack,
};
#[cfg(target_arch = "x86_64")]
use crate::threads::{Shared, each_with};
#[cfg(target_arch = "x86_64")]
use crate::unwritten::written_each;

/// `y [m, n] = activation(a · gateᵀ) · (a · upᵀ)` of weights `[n, k]`, both products rounded to bf16 before. Where they are
/// kept, they come second, side by side: `[m, 2 n]`; else that is empty.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn gated_new(
    a: Matrix<bf16>,
    [gate, up]: [&dyn Rows; 2],
    activation: Activation,
    keep: bool,
) -> (Vec<bf16>, Vec<bf16>) {
    let n = gate.rows();
    assert_eq!((n, gate.columns()), (up.rows(), up.columns()), "gate and up have different shapes");
    assert_eq!(a.columns(), gate.columns(), "the inner dimensions of a product differ");
    #[cfg(target_arch = "x86_64")]
    if is_native() && a.columns().is_multiple_of(2) && a.columns() <= INNER {
        // SAFETY: the processor has AVX512-BF16 and the unit; the shapes have been checked.
        return with_best!(U => unsafe { gated_by::<U>(a, [gate, up], activation, keep) });
    }
    let joined = nt_new(a, &[gate, up], &[]);
    (gated_joined_new(activation, &joined, n), if keep { joined } else { Vec::new() })
}

/// [`gated_new`] by one unit.
///
/// # Safety
/// The shapes fit, k is even and no more than [`INNER`], and the processor has AVX512-BF16 and the unit.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn gated_by<U: Unit>(
    a: Matrix<bf16>,
    [gate, up]: [&dyn Rows; 2],
    activation: Activation,
    keep: bool,
) -> (Vec<bf16>, Vec<bf16>) {
    let n = gate.rows();
    let (gate, up) = ([gate], [up]);
    let product = Gated { a, gate: Stack::new(&gate), up: Stack::new(&up), activation };
    let joined_len = if keep { 2 * a.rows() * n } else { 0 };
    // SAFETY: the caller's promise, and the tiles cover all of both results, which are this call's alone.
    let [y, joined] = unsafe {
        written_each([a.rows() * n, joined_len], |[y, joined]| {
            let kept = if keep { joined.as_mut_ptr().cast() } else { std::ptr::null_mut() };
            product.run::<U>(y.as_mut_ptr().cast(), kept);
        })
    };
    (y, joined)
}

/// Most rows of a tile, of any unit.
#[cfg(target_arch = "x86_64")]
pub(super) const MOST_ROWS: usize = 32;

#[cfg(target_arch = "x86_64")]
struct Gated<'a> {
    a: Matrix<'a, bf16>,
    gate: Stack<'a>,
    up: Stack<'a>,
    activation: Activation,
}

#[cfg(target_arch = "x86_64")]
impl Gated<'_> {
    /// Writes `y [m, n]`, and `joined [m, 2 n]` unless it is null.
    ///
    /// # Safety
    /// The processor has AVX512-BF16 and the unit, k is even and no more than [`INNER`]; nothing else reads or writes the results.
    unsafe fn run<U: Unit>(&self, y: *mut bf16, joined: *mut bf16) {
        let shared = Shared((self, y, joined));
        each_with(
            tasks(self.a.rows(), self.gate.rows().div_ceil(COLUMNS), U::ROWS, Blocks::current().bf16.rows),
            // SAFETY: the processor has the unit.
            || (unsafe { U::new() }, Packed::default()),
            |(unit, packed), (panel, rows)| {
                let (product, y, joined) = shared.get();
                // SAFETY: the caller's promise; each task has its own rows and columns.
                unsafe { product.panel(unit, packed, panel, rows, y, joined) };
            },
        );
    }

    /// One panel of columns in `rows`.
    ///
    /// # Safety
    /// As [`Gated::run`].
    unsafe fn panel<U: Unit>(
        &self,
        unit: &mut U,
        packed: &mut Packed<Pair>,
        panel: usize,
        rows: Range<usize>,
        y: *mut bf16,
        joined: *mut bf16,
    ) {
        let (n, k, first) = (self.gate.rows(), self.a.columns(), panel * COLUMNS);
        let (columns, panel_pairs) = (COLUMNS.min(n - first), (k / 2).next_multiple_of(U::PAIRS) * COLUMNS);
        let mut own = [bf16::ZERO; 2 * MOST_ROWS * COLUMNS];
        // SAFETY: the buffer has room for both panels, which are packed before they are read. Tiles, and the rows of slices
        // that are made of them, lie within this task's rows and columns of the results or within `own`. The slices of the
        // products are of what the tiles have just written; that of `y` need not be initialised, since it is written only.
        unsafe {
            let b = packed.panels(2 * panel_pairs, panel, |scratch, b| {
                pack::transposed(&self.gate, panel, 0..k, scratch, b);
                pack::transposed(&self.up, panel, 0..k, scratch, b.add(panel_pairs));
                pad(b, 2, k / 2, panel_pairs);
            });
            for first_row in rows.clone().step_by(U::ROWS) {
                let count = U::ROWS.min(rows.end - first_row);
                let row_stride = self.a.row_stride().unsigned_abs();
                let a = Left { start: self.a.as_ptr().add(first_row * row_stride), row_stride, pair_stride: 2 };
                let (gate, up, stride) = match joined.is_null() {
                    true => (own.as_mut_ptr(), own.as_mut_ptr().add(COLUMNS), 2 * COLUMNS),
                    false => {
                        let gate = joined.add(first_row * 2 * n + first);
                        (gate, gate.add(n), 2 * n)
                    }
                };
                for (c, b) in [(gate, b), (up, b.add(panel_pairs))] {
                    let target = Target::Bf16 { c, row_stride: stride, accumulate: false };
                    unit.tile((count, columns), k / 2, a, b, std::ptr::null(), target);
                }
                for row in 0..count {
                    let [gate, up] =
                        [gate, up].map(|x| std::slice::from_raw_parts(x.add(row * stride).cast_const(), columns));
                    let y = std::slice::from_raw_parts_mut(y.add((first_row + row) * n + first).cast(), columns);
                    gate_row(self.activation, gate, up, y);
                }
            }
        }
    }
}
