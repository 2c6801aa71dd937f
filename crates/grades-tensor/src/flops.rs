//! Counts the arithmetic that was executed, by kind, where it is executed.
//!
//! Only matrix products count (2·m·n·k each; an attention's two products per visible pair likewise), as in the
//! papers that report training FLOPs. The counters are of the process: a run reads them before and after.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use grades::Flops;

static FORWARD: AtomicU64 = AtomicU64::new(0);
static INPUT_GRADIENT: AtomicU64 = AtomicU64::new(0);
static WEIGHT_GRADIENT: AtomicU64 = AtomicU64::new(0);

/// What the process has executed so far.
#[must_use]
pub fn executed() -> Flops {
    Flops {
        forward: FORWARD.load(Relaxed),
        input_gradient: INPUT_GRADIENT.load(Relaxed),
        weight_gradient: WEIGHT_GRADIENT.load(Relaxed),
    }
}

pub(crate) fn forward(operations: u64) {
    FORWARD.fetch_add(operations, Relaxed);
}

pub(crate) fn input_gradient(operations: u64) {
    INPUT_GRADIENT.fetch_add(operations, Relaxed);
}

pub(crate) fn weight_gradient(operations: u64) {
    WEIGHT_GRADIENT.fetch_add(operations, Relaxed);
}

/// The operations of one product `[m, k] · [k, n]`.
pub(crate) fn product(m: usize, n: usize, k: usize) -> u64 {
    2 * m as u64 * n as u64 * k as u64
}
