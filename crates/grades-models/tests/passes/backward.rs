//! Where the backward pass of a whole model goes: the products it executes, and the tied embedding.

use grades::{Companion, Flops, Tower};
use grades_models::model::PassOptions;
use grades_models::parameters::Place;
use serde_json::json;

use crate::model::{
    HIDDEN, INNER, KEY, LAYER, LAYERS, QUERY, attention, exclusive, freeze, head, matrix, model, model_with, options,
    relative_error, run,
};

const EMBEDDING: &str = "model.embed_tokens.weight";

#[test]
fn a_tied_embedding_gets_the_gradients_of_both_its_uses() {
    let _counters = exclusive();
    let (tied, untied) = (model(true), model(false));
    let (of_tied, of_untied) = (run(&tied, PassOptions::default()), run(&untied, PassOptions::default()));
    let of = |name| of_untied.of(&untied, name).unwrap();
    let (embedding, head) = (of(EMBEDDING), of("lm_head.weight"));
    let sum: Vec<f32> = embedding.iter().zip(head).map(|(e, h)| e + h).collect();
    assert!(relative_error(of_tied.of(&tied, EMBEDDING).unwrap(), &sum) < 1e-6);
    for part in [embedding, head] {
        assert!(relative_error(part, &sum) > 0.1, "one part alone would pass");
    }
    for parameter in tied.parameters().iter().filter(|parameter| parameter.name != EMBEDDING) {
        let name = &parameter.name;
        assert!(relative_error(of_tied.of(&tied, name).unwrap(), of(name)) < 1e-6, "{name}");
    }
    assert_eq!(of_tied.executed, of_untied.executed);
}

#[test]
fn a_model_that_trains_whole_executes_all_products() {
    let _counters = exclusive();
    let found = run(&model(true), PassOptions::default());
    assert!(found.gradients.iter().all(Option::is_some));
    let layers = LAYERS as u64;
    let expected = Flops {
        forward: layers * (matrix(LAYER) + attention(2)) + head(),
        input_gradient: layers * (matrix(LAYER) + attention(5)) + head(),
        weight_gradient: layers * matrix(LAYER) + head(),
    };
    assert_eq!(found.executed, expected);
}

#[test]
fn a_frozen_matrix_saves_its_weight_gradient_alone() {
    let _counters = exclusive();
    let whole = run(&model(true), PassOptions::default()).executed;
    let mut model = model(true);
    freeze(&mut model, |name| name.contains("layers.1") && (name.contains("k_proj") || name.contains("down_proj")));
    let found = run(&model, PassOptions::default());
    for (parameter, piece) in model.parameters().pieces() {
        assert_eq!(found.gradients[piece.slot()].is_some(), piece.is_trainable(), "{}", parameter.name);
    }
    let saved = matrix(KEY * HIDDEN + INNER * HIDDEN);
    assert_eq!(found.executed, Flops { weight_gradient: whole.weight_gradient - saved, ..whole });
}

#[test]
fn the_backward_pass_ends_above_the_lowest_tracked_parameter() {
    let _counters = exclusive();
    let whole = run(&model(false), PassOptions::default()).executed;
    // The embedding and layer 0 whole; in layer 1 all below `o`, whose input is then untracked.
    let mut model = model(false);
    let below = ["q_proj", "k_proj", "v_proj", "input_layernorm"];
    freeze(&mut model, |name| {
        name.contains("embed_tokens")
            || name.contains("layers.0")
            || (name.contains("layers.1") && below.iter().any(|part| name.contains(part)))
    });
    let found = run(&model, PassOptions::default());
    assert_eq!(found.gradients.iter().filter(|gradient| gradient.is_none()).count(), 1 + 9 + 4);
    let (qkv, o) = (HIDDEN * (QUERY + 2 * KEY), QUERY * HIDDEN);
    // Layer 1: its MLP's input gradients, none of `o` and of what is below it; layer 2: all.
    let input_gradient = matrix(LAYER - qkv - o) + matrix(LAYER) + attention(5) + head();
    let weight_gradient = matrix(LAYER - qkv) + matrix(LAYER) + head();
    assert_eq!(found.executed, Flops { forward: whole.forward, input_gradient, weight_gradient });
}

#[test]
fn norms_of_heads_follow_their_layer_and_train_without_what_is_below() {
    let _counters = exclusive();
    let mut model = model_with(&json!({ "model_type": "qwen3" }), options());
    let whole = run(&model, PassOptions::default());
    for name in ["model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight"] {
        model.parameters_mut().train();
        freeze(&mut model, |other| other != name);
        let (_, piece) = model.parameters().pieces().find(|(parameter, _)| parameter.name == name).unwrap();
        assert_eq!(piece.place, Place::Companion(Companion::Norms { tower: Tower::Language, layer: 1 }));
        assert_eq!(model.frozen_layers(), 1);
        for checkpointing in [false, true] {
            let found = run(&model, PassOptions { checkpointing, ..PassOptions::default() });
            assert_eq!(found.given(&model), [name]);
            assert_eq!(found.of(&model, name), whole.of(&model, name));
        }
    }
}

#[test]
fn a_frozen_tied_embedding_leaves_no_product_of_the_head_undone() {
    let _counters = exclusive();
    // Only the last norm trains: the loss still needs the head's input gradient, and nothing else.
    let mut model = model(true);
    freeze(&mut model, |name| name != "model.norm.weight");
    assert!(model.parameters().pieces().any(|(_, piece)| piece.is_trainable() && piece.place == Place::Always));
    let found = run(&model, PassOptions::default());
    assert_eq!(found.given(&model), ["model.norm.weight"]);
    assert_eq!((found.executed.input_gradient, found.executed.weight_gradient), (head(), 0));
}
