//! What the operations of a thread have made and is still held, in bytes by kind of operation.
//!
//! When a forward pass has ended this is what its backward pass keeps, whatever holds it. Who lets go of a tensor does not matter.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The kinds of operations by what they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Rows of embeddings, and what takes their place.
    Embeddings,
    /// The residual stream: what projections give that a residual is added to.
    Stream,
    /// What norms make of it.
    Norms,
    /// Other projections.
    Projections,
    /// Heads, what they see, and the sums of their softmax.
    Attention,
    /// The two products of a gated MLP, or what an activation makes.
    Activations,
    /// The small products of adapters, and their dropped inputs.
    Adapters,
    /// Rows of experts, and their weights.
    Experts,
    /// The gradients that the head gives with its loss.
    Head,
}

impl Made {
    /// All of them, in the order of a pass.
    pub const ALL: [Self; 9] = [
        Self::Embeddings,
        Self::Stream,
        Self::Norms,
        Self::Projections,
        Self::Attention,
        Self::Activations,
        Self::Adapters,
        Self::Experts,
        Self::Head,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Stream => "residual stream",
            Self::Norms => "norms",
            Self::Projections => "projections",
            Self::Attention => "attention",
            Self::Activations => "activations",
            Self::Adapters => "adapters",
            Self::Experts => "experts",
            Self::Head => "gradients of the head",
        }
    }
}

type Counters = [AtomicU64; Made::ALL.len()];

thread_local! {
    static NOW: Cell<Option<Made>> = const { Cell::new(None) };
    static OWN: Arc<Counters> = Arc::default();
}

/// Bytes by kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held([u64; Made::ALL.len()]);

/// What is held now of what this thread's operations have made.
#[must_use]
pub fn held() -> Held {
    OWN.with(|own| Held(Made::ALL.map(|made| own[made as usize].load(Relaxed))))
}

impl Held {
    /// The bytes of one kind.
    #[must_use]
    pub fn of(&self, made: Made) -> u64 {
        self.0[made as usize]
    }

    /// Those of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What there is more than before.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|kind| self.0[kind].saturating_sub(before.0[kind])))
    }
}

/// While it lives, tensors that this thread makes count for its operation.
pub(crate) struct Making(Option<Made>);

pub(crate) fn making(what: Made) -> Making {
    Making(NOW.replace(Some(what)))
}

impl Drop for Making {
    fn drop(&mut self) {
        NOW.set(self.0);
    }
}

/// The storage of a tensor, counted as long as it lives where an operation has made it.
pub(crate) struct Counted<S> {
    pub(crate) storage: S,
    made: Option<(Made, Arc<Counters>)>,
    bytes: u64,
}

impl<S> Counted<S> {
    pub(crate) fn new(storage: S, bytes: usize) -> Self {
        let bytes = bytes as u64;
        let made = NOW.get().map(|made| (made, OWN.with(Arc::clone)));
        if let Some((made, counters)) = &made {
            counters[*made as usize].fetch_add(bytes, Relaxed);
        }
        Self { storage, made, bytes }
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        if let Some((made, counters)) = &self.made {
            counters[*made as usize].fetch_sub(self.bytes, Relaxed);
        }
    }
}
