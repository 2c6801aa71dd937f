//! What a step keeps, by kind: what is counted where it is held, beside what a plan says, up to what the process has taken.

use std::collections::BTreeMap;

use grades_kernels::Workspace;
use grades_models::Decoder;
use grades_tensor::{Gradients, Held, Made};
use serde::Serialize;

use crate::train::plan::MemoryPlan;

/// A step's memory at the two moments that can be its highest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepMemory {
    /// Its kinds; what is in none of them is [`other`](Self::other).
    pub kinds: Vec<Kind>,
    /// All kinds when the backward pass begins, in bytes.
    pub begins: u64,
    /// The same when it ends.
    pub ends: u64,
    /// What the process has held beyond the larger of the two at its highest: the program, its data, what a layer's way back holds for
    /// itself, and what the allocator keeps.
    pub other: Option<u64>,
    /// Most memory that the process has held.
    pub peak: Option<u64>,
    /// What a plan says of that.
    pub planned: u64,
}

/// One kind of what is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it is made of.
    pub parts: Vec<Part>,
    /// What a plan says of all of it, where it does.
    pub planned: Option<u64>,
}

/// A part of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Bytes when the backward pass begins.
    pub begins: u64,
    /// Bytes when it ends.
    pub ends: u64,
}

impl Kind {
    /// Of parts without those of which there is nothing.
    fn new(name: &'static str, planned: Option<u64>, parts: impl IntoIterator<Item = (String, u64, u64)>) -> Self {
        let parts = parts.into_iter().map(|(name, begins, ends)| Part { name, begins, ends });
        Self { name, parts: parts.filter(|part| part.begins + part.ends > 0).collect(), planned }
    }

    /// Bytes when the backward pass begins, and when it ends.
    #[must_use]
    pub fn bytes(&self) -> [u64; 2] {
        [self.parts.iter().map(|part| part.begins).sum(), self.parts.iter().map(|part| part.ends).sum()]
    }
}

/// What was counted in a step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// What its forward pass has left for the backward pass.
    pub(super) kept: Held,
    /// Its gradients.
    pub(super) gradients: u64,
}

impl Counted {
    pub(super) fn new(kept: Held, gradients: &Gradients) -> Self {
        Self { kept, gradients: gradients.iter().map(|(_, gradient)| gradient.bytes() as u64).sum() }
    }
}

impl StepMemory {
    /// Of a step over a model, with what its optimizer and its monitor keep.
    pub(super) fn of(
        model: &Decoder,
        counted: Counted,
        [optimizer, monitor]: [u64; 2],
        plan: &MemoryPlan,
        peak: Option<u64>,
    ) -> Self {
        let both = |name: &str, bytes| (name.to_owned(), bytes, bytes);
        let of_activations = Made::ALL.into_iter().filter(|made| *made != Made::Head);
        let [panels, logits] = [Workspace::Panels, Workspace::Logits].map(Workspace::most);
        let kinds = vec![
            Kind::new(
                "weights",
                Some(plan.weights),
                weights(model).into_iter().map(|(name, bytes)| both(&name, bytes)),
            ),
            // The head leaves its own with the loss.
            Kind::new(
                "gradients",
                Some(plan.gradients),
                [
                    ("of the head".to_owned(), counted.kept.of(Made::Head), 0),
                    ("of what trains".to_owned(), 0, counted.gradients),
                ],
            ),
            Kind::new("optimizer", Some(plan.optimizer), [both("state", optimizer)]),
            Kind::new("monitor", Some(plan.kept), [both("gradients of the step before", monitor)]),
            Kind::new(
                "activations",
                Some(plan.activations),
                of_activations.map(|made| (made.name().to_owned(), counted.kept.of(made), 0)),
            ),
            Kind::new(
                "workspaces",
                None,
                [both("panels of products", panels), ("logits, and what gradients need of them".to_owned(), logits, 0)],
            ),
        ];
        let kinds: Vec<Kind> = kinds.into_iter().filter(|kind| !kind.parts.is_empty()).collect();
        let [begins, ends] = [0, 1].map(|moment| kinds.iter().map(|kind| kind.bytes()[moment]).sum());
        let other = peak.map(|peak| peak.saturating_sub(u64::max(begins, ends)));
        Self { kinds, begins, ends, other, peak, planned: plan.peak }
    }
}

/// The bytes of a model's weights, by whether they train and by their dtype.
fn weights(model: &Decoder) -> Vec<(String, u64)> {
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for parameter in model.parameters().iter() {
        let what = if parameter.is_trainable() { "that train" } else { "that do not" };
        *bytes.entry(format!("{what}, {}", parameter.value.dtype().name())).or_default() += parameter.bytes() as u64;
    }
    bytes.into_iter().rev().collect()
}
