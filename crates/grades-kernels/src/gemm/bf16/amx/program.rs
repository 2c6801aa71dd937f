//! The instructions themselves, as text: what the processor runs is what the tests' emulation reads.

use std::arch::asm;

use half::bf16;

use super::SIDE;
use crate::gemm::bf16::tile::{COLUMNS, Pair};

/// What one program multiplies: `sums += a · b`.
#[derive(Clone, Copy)]
pub(in crate::gemm::bf16) struct Operands {
    /// The first row of the upper tile, and of the lower one.
    pub(super) upper: *const bf16,
    pub(super) lower: *const bf16,
    /// Bytes from one row of `a` to the next.
    pub(super) stride: usize,
    /// A column of a packed panel.
    pub(super) b: *const Pair,
    /// A column of the sums, whose rows are as long as the panel's lines.
    pub(super) sums: *mut f32,
    /// Tiles of pairs, at least one.
    pub(super) steps: usize,
}

/// Bytes of a line of a panel, and of a row of sums.
pub(super) const LINE: usize = size_of::<Pair>() * COLUMNS;
// The programs have these numbers: 16 lines, and a line's next 16 columns.
const _: () = assert!(SIDE * LINE == 3072 && SIDE * size_of::<Pair>() == 64);

/// Two tiles of rows times two of columns.
macro_rules! wide {
    () => {
        "
        tileloadd tmm0, [{sums} + {line}*1]
        tileloadd tmm1, [{sums} + {line}*1 + 64]
        tileloadd tmm2, [{sums} + {line}*1 + 3072]
        tileloadd tmm3, [{sums} + {line}*1 + 3136]
        2:
        tileloadd tmm6, [{b} + {line}*1]
        tileloadd tmm4, [{upper} + {stride}*1]
        tdpbf16ps tmm0, tmm4, tmm6
        tileloadd tmm7, [{b} + {line}*1 + 64]
        tdpbf16ps tmm1, tmm4, tmm7
        tileloadd tmm5, [{lower} + {stride}*1]
        tdpbf16ps tmm2, tmm5, tmm6
        tdpbf16ps tmm3, tmm5, tmm7
        add {upper}, 64
        add {lower}, 64
        add {b}, 3072
        dec {steps}
        jnz 2b
        tilestored [{sums} + {line}*1], tmm0
        tilestored [{sums} + {line}*1 + 64], tmm1
        tilestored [{sums} + {line}*1 + 3072], tmm2
        tilestored [{sums} + {line}*1 + 3136], tmm3
        "
    };
}

/// Two tiles of rows times one of columns.
macro_rules! narrow {
    () => {
        "
        tileloadd tmm0, [{sums} + {line}*1]
        tileloadd tmm2, [{sums} + {line}*1 + 3072]
        2:
        tileloadd tmm6, [{b} + {line}*1]
        tileloadd tmm4, [{upper} + {stride}*1]
        tdpbf16ps tmm0, tmm4, tmm6
        tileloadd tmm5, [{lower} + {stride}*1]
        tdpbf16ps tmm2, tmm5, tmm6
        add {upper}, 64
        add {lower}, 64
        add {b}, 3072
        dec {steps}
        jnz 2b
        tilestored [{sums} + {line}*1], tmm0
        tilestored [{sums} + {line}*1 + 3072], tmm2
        "
    };
}
#[cfg(test)]
pub(super) use {narrow, wide};

/// The shapes of all tiles, as `ldtilecfg` reads them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::gemm::bf16) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    pub(super) row_bytes: [u16; 16],
    pub(super) rows: [u8; 16],
}

impl Shapes {
    /// Those of the programs where the tiles of `a` have so many rows: 0 to 3 are sums, 4 and 5 tiles of `a`, 6 and 7 of `b`.
    pub(super) fn new([upper, lower]: [usize; 2]) -> Self {
        let mut shapes = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        shapes.row_bytes[..8].fill(64);
        let [upper, lower, side] = [upper, lower, SIDE].map(|rows| rows as u8);
        shapes.rows[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, side, side]);
        shapes
    }
}

/// What runs the programs.
pub(in crate::gemm::bf16) trait Runner {
    /// # Safety
    /// The processor has AMX and the process may use it, if that is what runs them.
    unsafe fn new() -> Self;

    /// Loads the shapes of the tiles.
    ///
    /// # Safety
    /// As [`Runner::new`].
    unsafe fn shape(&mut self, shapes: &Shapes);

    /// Two tiles of rows times two of columns.
    ///
    /// # Safety
    /// The shapes have been loaded; all that is read and written lies within the operands' memory.
    unsafe fn wide(&mut self, operands: Operands);

    /// Two tiles of rows times one of columns.
    ///
    /// # Safety
    /// As [`Runner::wide`].
    unsafe fn narrow(&mut self, operands: Operands);
}

/// The processor. Tiles are released when it is dropped, so that the system need not keep them for this thread.
pub(in crate::gemm::bf16) struct Processor(());

/// A program with its operands. Tiles are named as written, so that nothing is expected to live in them across it.
macro_rules! run {
    ($program:expr, $operands:ident, $($tile:tt),+) => {
        asm!(
            $program,
            upper = inout(reg) $operands.upper => _,
            lower = inout(reg) $operands.lower => _,
            b = inout(reg) $operands.b => _,
            steps = inout(reg) $operands.steps => _,
            stride = in(reg) $operands.stride,
            sums = in(reg) $operands.sums,
            line = in(reg) LINE,
            $(out($tile) _,)+
            options(nostack),
        )
    };
}

impl Runner for Processor {
    unsafe fn new() -> Self {
        Self(())
    }

    unsafe fn shape(&mut self, shapes: &Shapes) {
        // SAFETY: the processor has AMX; the 64 bytes are shapes that its first palette allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly)) }
    }

    unsafe fn wide(&mut self, operands: Operands) {
        // SAFETY: the caller's promise.
        unsafe { run!(wide!(), operands, "tmm0", "tmm1", "tmm2", "tmm3", "tmm4", "tmm5", "tmm6", "tmm7") }
    }

    unsafe fn narrow(&mut self, operands: Operands) {
        // SAFETY: the caller's promise.
        unsafe { run!(narrow!(), operands, "tmm0", "tmm2", "tmm4", "tmm5", "tmm6") }
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        // SAFETY: one is made only where the processor has AMX and the process may use it.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}
