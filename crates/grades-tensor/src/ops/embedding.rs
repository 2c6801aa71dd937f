//! Rows of a table, by index, and what is made of them before the layers.

use std::sync::Arc;

use crate::dtype::Dtype;
use crate::tape::{Leaf, Tape, Var};
use crate::tensor::Tensor;

/// Rows `ids` of `weight` `[vocabulary, hidden]`: `[tokens, hidden]`. The gradient of each row is added where the weight's
/// is: a tied head has left its own there already.
#[must_use]
pub fn embed(tape: &Tape, weight: &Leaf, ids: Arc<Vec<u32>>) -> Var {
    let (device, shape, slot) = (weight.value.device(), weight.value.shape(), weight.slot());
    let y = device.gather_rows(&weight.value, &ids);
    tape.record(y, slot.is_some(), move |dy, backward| {
        let Some(slot) = slot else { return };
        let gradients = backward.parameters();
        let mut sum = gradients.take(slot).unwrap_or_else(|| device.zeros(shape, Dtype::F32));
        device.scatter_add_rows(&mut sum, &ids, &dy);
        gradients.put(slot, sum);
    })
}

/// `factor · x` of f32 x.
#[must_use]
pub fn scale(tape: &Tape, x: Var, factor: f32) -> Var {
    let (device, node, mut y) = (x.value.device(), x.node(), x.value);
    device.scale(&mut y, factor);
    tape.record(y, node.is_tracked(), move |mut dy, backward| {
        device.scale(&mut dy, factor);
        backward.add(node, dy);
    })
}

/// x plus a constant of its shape and dtype.
#[must_use]
pub fn shift(tape: &Tape, x: Var, by: &Tensor) -> Var {
    let (node, mut y) = (x.node(), x.value);
    by.device().add(&mut y, by);
    tape.record(y, node.is_tracked(), move |dy, backward| backward.add(node, dy))
}

/// Rows `rows` of x; without a record.
#[must_use]
pub fn gather_rows(x: &Var, rows: &[u32]) -> Var {
    Var::constant(x.value.device().gather_rows(&x.value, rows))
}

/// x with the rows `rows` of it, each at most once, replaced by those of `by`, which has no gradient.
#[must_use]
pub fn replace_rows(tape: &Tape, x: Var, rows: Arc<Vec<u32>>, by: &Tensor) -> Var {
    let (device, node, mut y) = (by.device(), x.node(), x.value);
    device.put_rows(&mut y, &rows, by);
    let nothing = node.is_tracked().then(|| device.zeros(by.shape(), by.dtype()));
    tape.record(y, node.is_tracked(), move |mut dy, backward| {
        if let Some(nothing) = nothing {
            device.put_rows(&mut dy, &rows, &nothing);
        }
        backward.add(node, dy);
    })
}
