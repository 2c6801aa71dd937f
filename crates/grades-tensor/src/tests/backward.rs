//! Where the backward pass of a whole model goes: the products that it executes, and the tied embedding.

use super::model::{HIDDEN, INNER, KEY, LAYER, LAYERS, Model, QUERY, head, matrix, of_attention};
use super::{exclusive, relative_error};
use crate::cpu::CPU;
use crate::device::DeviceRef;
use crate::dtype::Dtype;
use crate::flops::executed;
use crate::reference::REFERENCE;
use crate::tape::{Gradients, Tape};
use grades::Flops;

fn model(tied: bool) -> Model {
    Model::new(&CPU, tied, Dtype::F32)
}

/// The gradient of every parameter by its name, `None` where there is none.
type Found = Vec<(String, Option<Vec<f32>>)>;

/// The gradients of the batch, and the executed products.
fn backward(model: &Model) -> (Found, Flops) {
    let before = executed();
    let tape = Tape::recording();
    let x = model.layers(&tape, 0..LAYERS, model.embed(&tape));
    assert_eq!(model.loss(&tape, &x).value.len(), 1);
    let mut gradients = Gradients::new(model.parameters.len());
    tape.backward(None, None, &mut gradients);
    let executed = executed().since(&before);
    let by_name = model.parameters.iter().enumerate().map(|(slot, parameter)| {
        let gradient = gradients.take(slot);
        assert!(gradient.iter().all(|gradient| gradient.shape() == parameter.value.shape()));
        (parameter.name.clone(), gradient.map(|gradient| gradient.to_host().into_owned()))
    });
    (by_name.collect(), executed)
}

fn of(found: &Found, name: &str) -> Vec<f32> {
    found.iter().find(|(of, _)| of == name).and_then(|(_, gradient)| gradient.clone()).unwrap()
}

#[test]
fn a_tied_embedding_gets_the_gradients_of_both_its_uses() {
    let _counters = exclusive();
    let ((tied, executed), (untied, executed_untied)) = (backward(&model(true)), backward(&model(false)));
    let (embedding, head) = (of(&untied, "embedding"), of(&untied, "head"));
    let sum: Vec<f32> = embedding.iter().zip(&head).map(|(e, h)| e + h).collect();
    assert!(relative_error(&of(&tied, "embedding"), &sum) < 1e-6);
    for part in [&embedding, &head] {
        assert!(relative_error(part, &sum) > 0.1, "one part alone would pass");
    }
    for (name, gradient) in tied.iter().filter(|(name, _)| name != "embedding") {
        assert!(relative_error(gradient.as_deref().unwrap(), &of(&untied, name)) < 1e-6, "{name}");
    }
    assert_eq!(executed, executed_untied);
}

#[test]
fn a_model_that_trains_whole_executes_all_products() {
    let _counters = exclusive();
    let (found, executed) = backward(&model(true));
    assert!(found.iter().all(|(_, gradient)| gradient.is_some()));
    let layers = LAYERS as u64;
    let expected = Flops {
        forward: layers * (matrix(LAYER) + of_attention(2)) + head(),
        input_gradient: layers * (matrix(LAYER) + of_attention(5)) + head(),
        weight_gradient: layers * matrix(LAYER) + head(),
    };
    assert_eq!(executed, expected);
}

#[test]
fn a_frozen_matrix_saves_its_weight_gradient_alone() {
    let _counters = exclusive();
    let (all, whole) = backward(&model(true));
    let mut model = model(true);
    model.freeze(|name| ["layers.1.k", "layers.1.down"].contains(&name));
    let (found, executed) = backward(&model);
    for ((name, gradient), parameter) in found.iter().zip(&model.parameters) {
        assert_eq!(gradient.is_some(), parameter.trains, "{name}");
        assert!(gradient.iter().all(|gradient| *gradient == of(&all, name)), "{name}");
    }
    let saved = matrix(KEY * HIDDEN + INNER * HIDDEN);
    assert_eq!(executed, Flops { weight_gradient: whole.weight_gradient - saved, ..whole });
}

#[test]
fn the_backward_pass_ends_above_the_lowest_tracked_parameter() {
    let _counters = exclusive();
    let (all, whole) = backward(&model(false));
    // The embedding and layer 0 whole; in layer 1 all below `o`, whose input is then untracked.
    let mut model = model(false);
    let below = ["q", "k", "v", "input_norm"].map(|part| format!("layers.1.{part}"));
    model.freeze(|name| name == "embedding" || name.contains("layers.0") || below.iter().any(|part| part == name));
    let (found, executed) = backward(&model);
    let frozen = found.iter().filter(|(_, gradient)| gradient.is_none()).count();
    assert_eq!(frozen, 1 + 9 + 4);
    for (name, gradient) in &found {
        assert!(gradient.iter().all(|gradient| *gradient == of(&all, name)), "{name}");
    }
    let (qkv, o) = (HIDDEN * (QUERY + 2 * KEY), QUERY * HIDDEN);
    // Layer 1: its MLP's input gradients, none of `o` and of what is below it; layer 2: all.
    let input_gradient = matrix(LAYER - qkv - o) + matrix(LAYER) + of_attention(5) + head();
    let weight_gradient = matrix(LAYER - qkv) + matrix(LAYER) + head();
    assert_eq!(executed, Flops { forward: whole.forward, input_gradient, weight_gradient });
}

#[test]
fn a_frozen_tied_embedding_leaves_no_product_of_the_head_undone() {
    let _counters = exclusive();
    // Only the last norm trains: the loss still needs the head's input gradient, and nothing else.
    let mut model = model(true);
    model.freeze(|name| name != "norm");
    let (found, executed) = backward(&model);
    let given: Vec<_> = found.iter().filter(|(_, gradient)| gradient.is_some()).map(|(name, _)| name).collect();
    assert_eq!(given, ["norm"]);
    assert_eq!((executed.input_gradient, executed.weight_gradient), (head(), 0));
}

/// The whole model on both devices, with activations in both dtypes: each within the rounding of some twenty operations
/// between the loss and the lowest parameter.
#[test]
fn devices_and_dtypes_give_the_same_gradients() {
    let _counters = exclusive();
    let (expected, executed) = backward(&Model::new(&REFERENCE, true, Dtype::F32));
    let others: [(DeviceRef, _, _); 3] =
        [(&CPU, Dtype::F32, 1e-5), (&CPU, Dtype::Bf16, 3e-2), (&REFERENCE, Dtype::Bf16, 3e-2)];
    for (device, dtype, tolerance) in others {
        let (found, of_device) = backward(&Model::new(device, true, dtype));
        assert_eq!(of_device, executed);
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let error = relative_error(found.as_deref().unwrap(), expected.as_deref().unwrap());
            assert!(error < tolerance, "{name} on {} in {} differs by {error:.2e}", device.name(), dtype.name());
        }
    }
}
