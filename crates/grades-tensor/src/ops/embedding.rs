//! Rows of a table, by index, and what is made of them before the layers.

use std::sync::Arc;

use crate::dtype::Dtype;
use crate::flops;
use crate::held::{Made, making};
use crate::tape::{Leaf, Tape, Var};
use crate::tensor::Tensor;

/// Rows `ids` of `weight` `[vocabulary, hidden]`, in f32: `[tokens, hidden]`. The gradient of each row is added where the weight's
/// is: a tied head has left its own there already.
#[must_use]
pub fn embed(tape: &Tape, weight: &Leaf, ids: Arc<Vec<u32>>) -> Var {
    let _made = making(Made::Embeddings);
    let (device, shape, slot) = (weight.value.device(), weight.value.shape(), weight.slot());
    let y = device.gather_rows(&weight.value, &ids).cast(Dtype::F32);
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
    let _made = making(Made::Embeddings);
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
    let _made = making(Made::Embeddings);
    let (node, mut y) = (x.node(), x.value);
    by.device().add(&mut y, by);
    tape.record(y, node.is_tracked(), move |dy, backward| backward.add(node, dy))
}

/// Rows `rows` of x; without a record.
#[must_use]
pub fn gather_rows(x: &Var, rows: &[u32]) -> Var {
    let _made = making(Made::Embeddings);
    Var::constant(x.value.device().gather_rows(&x.value, rows))
}

/// The sum of two values of one shape and dtype.
#[must_use]
pub fn add(tape: &Tape, x: Var, y: &Var) -> Var {
    let _made = making(Made::Embeddings);
    let (nodes, mut sum) = ([x.node(), y.node()], x.value);
    sum.device().add(&mut sum, &y.value);
    tape.record(sum, nodes.iter().any(|node| node.is_tracked()), move |dy, backward| {
        let [x, y] = nodes;
        backward.add(x, dy.clone());
        backward.add(y, dy);
    })
}

/// x with the rows `rows` of it, each at most once, replaced by those of `by`.
#[must_use]
pub fn replace_rows(tape: &Tape, x: Var, rows: Arc<Vec<u32>>, by: &Var) -> Var {
    let _made = making(Made::Embeddings);
    let (device, node, mut y) = (by.value.device(), x.node(), x.value);
    let (of_rows, dtype, shape) = (by.node(), by.value.dtype(), by.value.shape());
    let values = by.value.cast(y.dtype());
    device.put_rows(&mut y, &rows, &values);
    tape.record(y, node.is_tracked() || of_rows.is_tracked(), move |mut dy, backward| {
        if of_rows.is_tracked() {
            backward.add(of_rows, device.gather_rows(&dy, &rows).cast(dtype));
        }
        if node.is_tracked() {
            let nothing = device.zeros(shape, dy.dtype());
            device.put_rows(&mut dy, &rows, &nothing);
            backward.add(node, dy);
        }
    })
}

/// Every `count` rows of x side by side: `[rows, width]` to `[rows / count, count · width]`.
#[must_use]
pub fn side_by_side(tape: &Tape, x: Var, count: usize) -> Var {
    let _made = making(Made::Embeddings);
    let (node, shape @ [rows, width]) = (x.node(), x.value.shape());
    let y = x.value.reshaped([rows / count, count * width]);
    tape.record(y, node.is_tracked(), move |dy, backward| backward.add(node, dy.reshaped(shape)))
}

/// Rows that are each a weighted sum of a table's: `weights · table`, f32 weights `[rows, of table]`, table `[of table, width]`.
#[must_use]
pub fn mix_rows(tape: &Tape, weights: Tensor, table: &Leaf) -> Var {
    let _made = making(Made::Embeddings);
    let (device, slot, [of_table, width]) = (weights.device(), table.slot(), table.value.shape());
    let operations = flops::product(weights.rows(), width, of_table);
    flops::forward(operations);
    let y = device.project_input_gradient(&weights, &[&table.value], None);
    tape.record(y, slot.is_some(), move |dy, backward| {
        flops::weight_gradient(operations);
        let all = 0..of_table;
        let gradients = device.project_weight_gradients(&weights, &dy, 0..width, std::slice::from_ref(&all));
        if let Some((slot, gradient)) = slot.zip(gradients.into_iter().next()) {
            backward.parameters().add(slot, gradient);
        }
    })
}
