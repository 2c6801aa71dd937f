//! The head of a language model.

use std::sync::Arc;

use crate::flops;
use crate::held::{Made, making};
use crate::spec::{CrossEntropySpec, IGNORE_INDEX, Label, LossScale, labels_of};
use crate::tape::{Leaf, Tape, Var};
use crate::tensor::Tensor;

/// `Σ scale · −log softmax(hidden · Wᵀ)[target]`, `[1, 1]`: hidden `[rows, hidden]`, weight `[vocabulary, hidden]`. The
/// gradients come from the same pass over the logits, which are never held all at once.
#[must_use]
pub fn cross_entropy(tape: &Tape, hidden: &Var, weight: &Leaf, spec: &CrossEntropySpec) -> Var {
    let _made = making(Made::Head);
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

/// `log softmax(hidden · Wᵀ)[row, target]` of every row that has a target, in their order, `[1, labels]`: hidden `[rows, hidden]`,
/// weight `[vocabulary, hidden]`. The way back computes the logits again, a block at a time, once it knows what each of them counts.
#[must_use]
pub fn label_log_probabilities(tape: &Tape, hidden: &Var, weight: &Leaf, targets: Arc<Vec<i64>>) -> Var {
    let _made = making(Made::Head);
    let [vocabulary, width] = weight.value.shape();
    let labels = labels_of(&targets);
    let rows: Vec<u32> = labels.iter().map(|label| label.row).collect();
    let alone: Vec<Label> = (0..).zip(&labels).map(|(row, label)| Label { row, ..*label }).collect();
    let operations = flops::product(labels.len(), vocabulary, width);
    flops::forward(operations);
    let device = hidden.value.device();
    let scores = device.log_likelihoods(&device.gather_rows(&hidden.value, &rows), &weight.value, &alone);
    let (node, slot) = (hidden.node(), weight.slot().filter(|_| tape.is_recording()));
    let (states, matrix) = (hidden.saved(), weight.value.clone());
    tape.record(scores, node.is_tracked() || slot.is_some(), move |dy, backward| {
        // The loss of a row is minus its log-probability.
        let mut scales = vec![0.0; targets.len()];
        rows.iter().zip(dy.to_host().iter()).for_each(|(&row, dy)| scales[row as usize] = -dy);
        let spec = CrossEntropySpec { targets, scale: LossScale::Each(Arc::new(scales)) };
        flops::forward(operations);
        let (_, dhidden, dweight) =
            device.cross_entropy(&states.value(), &matrix, &spec, node.is_tracked(), slot.is_some());
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
    let _made = making(Made::Head);
    flops::forward(flops::product(hidden.value.rows(), weight.rows(), weight.columns()));
    hidden.value.device().log_likelihoods(&hidden.value, weight, labels)
}
