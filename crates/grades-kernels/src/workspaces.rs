//! Memory that kernels hold beside their operands and results while they run, and the most of it at a time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workspace {
    /// Operands of products, packed as their tiles read them.
    Panels,
    /// A block of logits, and what gradients need of all logits of some rows.
    Logits,
}

struct Counter {
    now: AtomicU64,
    most: AtomicU64,
}

static COUNTERS: [Counter; 2] = [const { Counter { now: AtomicU64::new(0), most: AtomicU64::new(0) } }; 2];

impl Workspace {
    /// The most bytes of it that the process has held at a time since the last [`reset`](Self::reset).
    #[must_use]
    pub fn most(self) -> u64 {
        COUNTERS[self as usize].most.load(Relaxed)
    }

    /// Begins anew.
    pub fn reset(self) {
        let Counter { now, most } = &COUNTERS[self as usize];
        most.store(now.load(Relaxed), Relaxed);
    }
}

/// So many bytes of a workspace, as long as it lives.
pub(crate) struct InUse(Workspace, u64);

impl InUse {
    pub(crate) fn new(of: Workspace, bytes: usize) -> Self {
        let Counter { now, most } = &COUNTERS[of as usize];
        let bytes = bytes as u64;
        most.fetch_max(now.fetch_add(bytes, Relaxed) + bytes, Relaxed);
        Self(of, bytes)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        COUNTERS[self.0 as usize].now.fetch_sub(self.1, Relaxed);
    }
}
