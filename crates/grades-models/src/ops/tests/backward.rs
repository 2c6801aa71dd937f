//! Where the backward pass of a whole model goes: the products it executes, and the tied embedding.

use std::sync::Arc;

use burn::tensor::Device;

use super::{exclusive, packed, relative_error, values};
use crate::nn::{DecoderConfig, RopeScaling};
use crate::ops::{Activation, Flops, IGNORE, executed_flops};
use crate::parameters::{Place, Source};
use crate::{Decoder, Error, Tokens, host};

/// Random weights that depend on the tensor's name only; an untied head equals the embedding.
struct Random;

impl Source for Random {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let name = if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
        let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let values = values(seed, shape.iter().product());
        // Norm scales around 1, projections small enough for a tame loss.
        Ok(values.into_iter().map(|v| if shape.len() == 1 { 1.0 + 0.2 * v } else { 0.3 * v }).collect())
    }
}

const VOCABULARY: usize = 23;
const HIDDEN: usize = 12;
const INNER: usize = 10;
pub(super) const LAYERS: usize = 3;
const QUERY: usize = 16;
const KEY: usize = 8;
/// Values of one layer's matrices.
pub(super) const LAYER: usize = HIDDEN * (QUERY + 2 * KEY) + QUERY * HIDDEN + 3 * INNER * HIDDEN;

pub(super) fn model(tied: bool) -> Decoder {
    let config = DecoderConfig {
        vocab_size: VOCABULARY,
        hidden_size: HIDDEN,
        intermediate_size: INNER,
        num_hidden_layers: LAYERS,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        max_position_embeddings: 64,
        tie_word_embeddings: tied,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        sliding_window: None,
        activation: Activation::Silu,
    };
    let mut model = Decoder::load(config, &Random, &Device::default().autodiff()).unwrap();
    for parameter in model.parameters_mut().iter_mut() {
        parameter.set_trainable(true);
    }
    model
}

const LENGTHS: [usize; 2] = [5, 3];
const TOKENS: usize = 8;
/// Pairs of a query and a key that it sees: 1 + … + 5 and 1 + … + 3.
const PAIRS: usize = 15 + 6;
const LABELS: usize = 5;

pub(super) fn batch() -> (Tokens, Arc<Vec<i64>>) {
    let ids = Arc::new(vec![3, 7, 7, 22, 0, 1, 7, 5]);
    let targets = Arc::new(vec![IGNORE, 7, 22, 0, 9, IGNORE, 5, IGNORE]);
    (Tokens { ids, layout: Arc::new(packed(&LENGTHS)) }, targets)
}

/// The gradient of every parameter by its name, `None` where it is frozen.
type Gradients = Vec<(String, Option<Vec<f32>>)>;

/// The gradients of the batch, and the executed products.
fn backward(model: &Decoder) -> (Gradients, Flops) {
    let (tokens, targets) = batch();
    let before = executed_flops();
    let mut found = model.loss(&tokens, targets, 0.2).backward();
    let executed = executed_flops().since(&before);
    let gradients = model.parameters().iter().map(|parameter| {
        let gradient = parameter.is_trainable().then(|| parameter.value.grad_remove(&mut found)).flatten();
        let read = |gradient| host::read(&parameter.name, &gradient, <[f32]>::to_vec).unwrap();
        (parameter.name.clone(), gradient.map(read))
    });
    (gradients.collect(), executed)
}

/// The operations of a product over all tokens with a matrix of so many values.
pub(super) fn matrix(values: usize) -> u64 {
    (2 * TOKENS * values) as u64
}

fn head() -> u64 {
    (2 * LABELS * VOCABULARY * HIDDEN) as u64
}

/// Two products forward and five backward for every visible pair and query column.
pub(super) fn attention(products: usize) -> u64 {
    (2 * PAIRS * QUERY * products) as u64
}

pub(super) fn freeze(model: &mut Decoder, frozen: impl Fn(&str) -> bool) {
    for parameter in model.parameters_mut().iter_mut().filter(|parameter| frozen(&parameter.name)) {
        parameter.set_trainable(false);
    }
}

#[test]
fn a_tied_embedding_gets_the_gradients_of_both_its_uses() {
    let _counters = exclusive();
    let ((tied, executed), (untied, executed_untied)) = (backward(&model(true)), backward(&model(false)));
    let of = |gradients: &Gradients, name: &str| {
        gradients.iter().find(|(found, _)| found == name).and_then(|(_, gradient)| gradient.clone()).unwrap()
    };
    let (embedding, head) = (of(&untied, "model.embed_tokens.weight"), of(&untied, "lm_head.weight"));
    let sum: Vec<f32> = embedding.iter().zip(&head).map(|(e, h)| e + h).collect();
    assert!(relative_error(&of(&tied, "model.embed_tokens.weight"), &sum) < 1e-6);
    for part in [&embedding, &head] {
        assert!(relative_error(part, &sum) > 0.1, "one part alone would pass");
    }
    for (name, gradient) in tied.iter().filter(|(name, _)| name != "model.embed_tokens.weight") {
        assert!(relative_error(gradient.as_deref().unwrap(), &of(&untied, name)) < 1e-6, "{name}");
    }
    assert_eq!(executed, executed_untied);
}

#[test]
fn a_model_that_trains_whole_executes_all_products() {
    let _counters = exclusive();
    let (gradients, executed) = backward(&model(true));
    assert!(gradients.iter().all(|(_, gradient)| gradient.is_some()));
    let layers = LAYERS as u64;
    let expected = Flops {
        forward: layers * (matrix(LAYER) + attention(2)) + head(),
        input_gradient: layers * (matrix(LAYER) + attention(5)) + head(),
        weight_gradient: layers * matrix(LAYER) + head(),
    };
    assert_eq!(executed, expected);
}

#[test]
fn a_frozen_matrix_saves_its_weight_gradient_alone() {
    let _counters = exclusive();
    let (_, whole) = backward(&model(true));
    let mut model = model(true);
    freeze(&mut model, |name| name.contains("layers.1") && (name.contains("k_proj") || name.contains("down_proj")));
    let (gradients, executed) = backward(&model);
    for (name, gradient) in gradients {
        assert_eq!(
            gradient.is_none(),
            model.parameters().iter().any(|p| p.name == name && !p.is_trainable()),
            "{name}"
        );
    }
    let saved = matrix(KEY * HIDDEN + INNER * HIDDEN);
    assert_eq!(executed, Flops { weight_gradient: whole.weight_gradient - saved, ..whole });
}

#[test]
fn the_backward_pass_ends_above_the_lowest_tracked_parameter() {
    let _counters = exclusive();
    let (_, whole) = backward(&model(false));
    // The embedding and layer 0 whole; in layer 1 all below `o`, whose input is then untracked.
    let mut model = model(false);
    let below = ["q_proj", "k_proj", "v_proj", "input_layernorm"];
    freeze(&mut model, |name| {
        name.contains("embed_tokens")
            || name.contains("layers.0")
            || (name.contains("layers.1") && below.iter().any(|part| name.contains(part)))
    });
    let (gradients, executed) = backward(&model);
    let frozen = gradients.iter().filter(|(_, gradient)| gradient.is_none()).count();
    assert_eq!(frozen, 1 + 9 + 4);
    let (qkv, o) = (HIDDEN * (QUERY + 2 * KEY), QUERY * HIDDEN);
    // Layer 1: its MLP's input gradients, none of `o` and of what is below it; layer 2: all.
    let input_gradient = matrix(LAYER - qkv - o) + matrix(LAYER) + attention(5) + head();
    let weight_gradient = matrix(LAYER - qkv) + matrix(LAYER) + head();
    assert_eq!(executed, Flops { forward: whole.forward, input_gradient, weight_gradient });
}

#[test]
fn a_frozen_tied_embedding_leaves_no_product_of_the_head_undone() {
    let _counters = exclusive();
    // Only the last norm trains: the loss still needs the head's input gradient, and nothing else.
    let mut model = model(true);
    freeze(&mut model, |name| name != "model.norm.weight");
    assert!(model.parameters().iter().any(|p| p.is_trainable() && p.place == Place::Always));
    let (gradients, executed) = backward(&model);
    let given: Vec<_> = gradients.iter().filter(|(_, gradient)| gradient.is_some()).map(|(name, _)| name).collect();
    assert_eq!(given, ["model.norm.weight"]);
    assert_eq!((executed.input_gradient, executed.weight_gradient), (head(), 0));
}
