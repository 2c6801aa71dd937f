//! Counts the arithmetic that was executed, by kind, where it is executed.
//!
//! Only matrix products count (2·m·n·k each; an attention's two products per visible pair likewise), as in the
//! papers that report training FLOPs. The counters are of the process: a run reads them before and after.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static FORWARD: AtomicU64 = AtomicU64::new(0);
static INPUT_GRADIENT: AtomicU64 = AtomicU64::new(0);
static WEIGHT_GRADIENT: AtomicU64 = AtomicU64::new(0);

/// Executed floating-point operations by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Flops {
    /// Products of the forward pass.
    pub forward: u64,
    /// Products that carry the gradient to an operation's input.
    pub input_gradient: u64,
    /// Products that give the gradient of a weight.
    pub weight_gradient: u64,
}

impl Flops {
    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.forward + self.input_gradient + self.weight_gradient
    }

    /// What the process has executed so far.
    #[must_use]
    pub fn executed() -> Self {
        Self {
            forward: FORWARD.load(Relaxed),
            input_gradient: INPUT_GRADIENT.load(Relaxed),
            weight_gradient: WEIGHT_GRADIENT.load(Relaxed),
        }
    }

    /// What was executed since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            forward: self.forward - earlier.forward,
            input_gradient: self.input_gradient - earlier.input_gradient,
            weight_gradient: self.weight_gradient - earlier.weight_gradient,
        }
    }
}

impl std::ops::AddAssign for Flops {
    fn add_assign(&mut self, other: Self) {
        self.forward += other.forward;
        self.input_gradient += other.input_gradient;
        self.weight_gradient += other.weight_gradient;
    }
}

pub(super) fn forward(operations: u64) {
    FORWARD.fetch_add(operations, Relaxed);
}

pub(super) fn input_gradient(operations: u64) {
    INPUT_GRADIENT.fetch_add(operations, Relaxed);
}

pub(super) fn weight_gradient(operations: u64) {
    WEIGHT_GRADIENT.fetch_add(operations, Relaxed);
}

/// The operations of one product `[m, k] · [k, n]`.
pub(super) fn product(m: usize, n: usize, k: usize) -> u64 {
    2 * m as u64 * n as u64 * k as u64
}
