//! The head of a language model.

use crate::flops;
use crate::spec::{CrossEntropySpec, IGNORE_INDEX, Label};
use crate::tape::{Leaf, Tape, Var};
use crate::tensor::Tensor;

/// `scale · Σ −log softmax(hidden · Wᵀ)[target]`, `[1, 1]`: hidden `[rows, hidden]`, weight `[vocabulary, hidden]`. The
/// gradients come from the same pass over the logits, which are never held all at once.
#[must_use]
pub fn cross_entropy(tape: &Tape, hidden: &Var, weight: &Leaf, spec: &CrossEntropySpec) -> Var {
    let [vocabulary, width] = weight.value.shape();
    let labels = spec.targets.iter().filter(|&&target| target != IGNORE_INDEX).count();
    let operations = flops::product(labels, vocabulary, width);
    flops::forward(operations);
    let (node, slot) = (hidden.node(), weight.slot().filter(|_| tape.is_recording()));
    let device = hidden.value.device();
    let (loss, dhidden, dweight) =
        device.cross_entropy(&hidden.value, &weight.value, spec, node.is_tracked(), slot.is_some());
    tape.record_loss(loss, node.is_tracked() || slot.is_some(), move |backward| {
        if let (Some(slot), Some(gradient)) = (slot, dweight) {
            flops::weight_gradient(operations);
            backward.parameters().add(slot, gradient);
        }
        if let Some(gradient) = dhidden {
            flops::input_gradient(operations);
            backward.add(node, gradient);
        }
    })
}

/// `log softmax(hidden · Wᵀ)[row, token]` of every label, `[1, labels]`; they are in the order of their rows. Without a
/// record.
#[must_use]
pub fn log_likelihoods(hidden: &Var, weight: &Tensor, labels: &[Label]) -> Tensor {
    flops::forward(flops::product(hidden.value.rows(), weight.rows(), weight.columns()));
    hidden.value.device().log_likelihoods(&hidden.value, weight, labels)
}
