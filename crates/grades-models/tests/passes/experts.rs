//! Layers of experts: what they execute, what trains in them, and the loss that balances them.

use grades::{Companion, Flops, Tower};
use grades_models::model::PassOptions;
use grades_models::parameters::Place;
use grades_models::source::{LoadOptions, Storage};
use grades_models::{Decoder, LoraConfig};
use grades_tensor::Dtype;
use serde_json::{Value, json};

use crate::model::{
    HIDDEN, INNER, LABELS, LAYER, LAYERS, TOKENS, attention, batch, exclusive, freeze, head, matrix, model_with,
    options, relative_error, run,
};

const EXPERTS: usize = 4;
const TOP_K: usize = 2;
const EXPERT: usize = 3 * INNER * HIDDEN;

/// The second of three layers has one MLP for all.
fn model_of(more: &Value, options: LoadOptions) -> Decoder {
    let mut config = json!({
        "model_type": "qwen3_moe", "num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "moe_intermediate_size": INNER,
        "mlp_only_layers": [1], "norm_topk_prob": true,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    model_with(&config, options)
}

fn balanced() -> Value {
    json!({ "output_router_logits": true, "router_aux_loss_coef": 0.5 })
}

#[test]
fn a_token_costs_the_experts_that_it_has() {
    let _counters = exclusive();
    let model = model_of(&json!({}), options());
    let found = run(&model, PassOptions::default());
    let sparse = LAYER - EXPERT + TOP_K * EXPERT + EXPERTS * HIDDEN;
    let matrices = matrix(2 * sparse + LAYER);
    let expected = Flops {
        forward: matrices + LAYERS as u64 * attention(2) + head(),
        input_gradient: matrices + LAYERS as u64 * attention(5) + head(),
        weight_gradient: matrices + head(),
    };
    assert_eq!(found.executed, expected);
    assert_eq!(model.whole_pass(&batch().0, LABELS, false), Some(expected));

    // A frozen matrix of an expert saves the product over its tokens: all matrices of one kind together those of a token's experts.
    let mut model = model_of(&json!({}), options());
    freeze(&mut model, |name| name.contains("layers.0.mlp.experts") && name.contains("up_proj"));
    let saved = matrix(TOP_K * INNER * HIDDEN);
    let frozen = run(&model, PassOptions::default()).executed;
    assert_eq!(frozen, Flops { weight_gradient: expected.weight_gradient - saved, ..expected });
}

#[test]
fn each_matrix_of_an_expert_is_a_unit_and_the_router_goes_with_the_norms() {
    let model = model_of(&json!({}), options());
    let place = |name: &str| {
        let (_, piece) = model.parameters().pieces().find(|(parameter, _)| parameter.name == name).unwrap();
        match piece.place {
            Place::Unit(unit) => unit.to_string(),
            place => format!("{place:?}"),
        }
    };
    assert_eq!(place("model.layers.2.mlp.experts.3.gate_proj.weight"), "language.2.experts.3.gate");
    assert_eq!(place("model.layers.0.mlp.experts.1.down_proj.weight"), "language.0.experts.1.down");
    assert_eq!(place("model.layers.1.mlp.up_proj.weight"), "language.1.up");
    let norms = Place::Companion(Companion::Norms { tower: Tower::Language, layer: 2 });
    assert_eq!(place("model.layers.2.mlp.gate.weight"), format!("{norms:?}"));
}

#[test]
fn checkpointing_gives_the_same_gradients_to_the_bit_and_the_same_loss() {
    let _counters = exclusive();
    for more in [json!({}), balanced()] {
        let model = model_of(&more, options());
        let found = run(&model, PassOptions::default());
        let checkpointed = run(&model, PassOptions { checkpointing: true, ..PassOptions::default() });
        assert!((checkpointed.loss, &checkpointed.gradients) == (found.loss, &found.gradients), "{more}");
        let whole = model.whole_pass(&batch().0, LABELS, true);
        assert_eq!(whole, Some(checkpointed.executed), "{more}");
    }
}

#[test]
fn an_expert_without_tokens_has_no_gradient() {
    let _counters = exclusive();
    // More experts than choices.
    let model = model_of(&json!({ "num_experts": 30, "num_experts_per_tok": 1 }), options());
    let found = run(&model, PassOptions::default());
    let with_gradient = |layer: usize, matrix: &str| {
        let of_layer = format!("layers.{layer}.mlp.experts.");
        let given = found.given(&model).into_iter();
        given.filter(|name| name.contains(&of_layer) && name.contains(matrix)).count()
    };
    for layer in [0, 2] {
        let used = with_gradient(layer, "down_proj");
        assert!((1..=TOKENS).contains(&used), "{used}");
        assert_eq!([with_gradient(layer, "gate_proj"), with_gradient(layer, "up_proj")], [used; 2]);
        assert!(found.of(&model, &format!("model.layers.{layer}.mlp.gate.weight")).is_some());
    }
    // A token costs the same whichever expert it has.
    let whole = model.whole_pass(&batch().0, LABELS, false).unwrap();
    assert_eq!(found.executed, whole);
}

#[test]
fn the_loss_that_balances_experts_needs_all_layers() {
    let _counters = exclusive();
    let (plain, balanced) = (model_of(&json!({}), options()), model_of(&balanced(), options()));
    let [of_plain, of_balanced] = [&plain, &balanced].map(|model| run(model, PassOptions::default()));
    // At least what equally used experts give: the coefficient times the experts of a token.
    let added = of_balanced.loss - of_plain.loss;
    assert!((0.9..2.0).contains(&added), "{added}");
    let router = "model.layers.2.mlp.gate.weight";
    let error = relative_error(of_balanced.of(&balanced, router).unwrap(), of_plain.of(&plain, router).unwrap());
    assert!(error > 1e-2, "{error}");
    // Frozen first layers run all the same, so that no prefix takes their place.
    for (mut model, frozen) in [(plain, 2), (balanced, 0)] {
        model.set_tied_input_trainable(false);
        let below = |name: &str| name.contains("layers.0") || name.contains("layers.1") || name.contains("embed");
        freeze(&mut model, below);
        assert_eq!(model.frozen_layers(), frozen);
        let expected = run(&model, PassOptions::default());
        let prefix = Some(model.prefix(&batch().0, None, 2));
        let found = run(&model, PassOptions { prefix, ..PassOptions::default() });
        assert!((found.loss, &found.gradients) == (expected.loss, &expected.gradients));
        assert_eq!(found.executed == expected.executed, frozen == 0);
    }
}

#[test]
fn adapters_lie_beside_experts_and_merge_into_them() {
    let _counters = exclusive();
    let config =
        LoraConfig { r: 2, target_modules: vec!["gate_proj".into(), "down_proj".into()], ..LoraConfig::default() };
    for storage in [Storage::Dense, Storage::Packed] {
        let base = model_of(&json!({}), LoadOptions { storage, ..options() });
        let packed = base.parameters().iter().filter(|parameter| parameter.is_packed()).count();
        // q, k, v and o of each layer, and three matrices of each MLP; the router stays dense.
        let matrices = 4 * LAYERS + 3 * (2 * EXPERTS + 1);
        assert_eq!(packed, if storage == Storage::Packed { matrices } else { 0 });
        let mut model = base.with_adapter(config.clone(), &LoraConfig::initial(3)).unwrap();
        for parameter in model.parameters_mut().iter_mut().filter(|parameter| parameter.is_lora_b()) {
            let values = (0..parameter.len()).map(|i| (i % 7) as f32 / 10.0 - 0.3).collect();
            parameter.value = parameter.value.device().from_host(values, parameter.value.shape());
        }
        model.parameters_mut().train();
        let found = run(&model, PassOptions::default());
        let given = found.given(&model);
        assert_eq!(given.len(), 2 * 2 * (2 * EXPERTS + 1));
        assert!(given.iter().all(|name| name.contains(".lora_")), "{given:?}");
        assert!(given.contains(&"base_model.model.model.layers.2.mlp.experts.3.down_proj.lora_A.weight"));
        let adapted = model.logits(&batch().0).to_host().into_owned();
        let merged = model.merged().logits(&batch().0).to_host().into_owned();
        assert!(relative_error(&merged, &adapted) < 1e-5);
        let plain = model_of(&json!({}), LoadOptions { storage, ..options() });
        assert!(relative_error(&merged, &plain.logits(&batch().0).to_host()) > 1e-2);
    }
}

#[test]
fn the_choice_of_experts_is_that_of_f32_in_bf16_too() {
    let _counters = exclusive();
    let mut model = model_of(&json!({}), options());
    let expected = model.logits(&batch().0).to_host().into_owned();
    model.set_dtype(Dtype::Bf16);
    assert!(relative_error(&model.logits(&batch().0).to_host(), &expected) < 3e-2);
}
