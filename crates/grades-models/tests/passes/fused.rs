//! Fused projections: each role in them trains and freezes by itself.

use grades::{Flops, Role, UnitId};
use grades_models::Decoder;
use grades_models::model::PassOptions;
use grades_models::source::LoadOptions;
use serde_json::json;

use crate::model::{
    HIDDEN, INNER, KEY, LABELS, LAYERS, Outcome, QUERY, batch, exclusive, matrix, model_with, options, run,
};

fn model(split_fused: bool) -> Decoder {
    model_with(&json!({ "model_type": "phi3" }), LoadOptions { split_fused, ..options() })
}

fn freeze(model: &mut Decoder, unit: UnitId) {
    model.parameters_mut().set_trainable(|piece| (piece.place.unit() == Some(unit)).then_some(false));
}

/// The units of a parameter, with their gradients.
fn units<'a>(model: &Decoder, found: &'a Outcome, name: &str) -> Vec<(UnitId, Option<&'a [f32]>)> {
    let parameter = model.parameters().iter().find(|parameter| parameter.name == name).unwrap();
    let unit = |piece: &grades_models::parameters::Piece| {
        (piece.place.unit().unwrap(), found.gradients[piece.slot()].as_deref())
    };
    parameter.pieces().iter().map(unit).collect()
}

const QKV: &str = "model.layers.1.self_attn.qkv_proj.weight";
const GATE_UP: &str = "model.layers.1.mlp.gate_up_proj.weight";

#[test]
fn a_frozen_part_saves_its_weight_gradient_alone() {
    let _counters = exclusive();
    let whole = run(&model(true), PassOptions::default());
    assert!(whole.gradients.iter().all(Option::is_some));
    for (role, rows) in [(Role::Q, QUERY), (Role::K, KEY), (Role::V, KEY), (Role::Gate, INNER), (Role::Up, INNER)] {
        let (mut model, unit) = (model(true), UnitId::language(1, role));
        freeze(&mut model, unit);
        let frozen: Vec<usize> =
            model.parameters().pieces().filter(|(_, piece)| !piece.is_trainable()).map(|(_, p)| p.slot()).collect();
        assert_eq!(frozen.len(), 1, "{unit}");
        for checkpointing in [false, true] {
            let found = run(&model, PassOptions { checkpointing, ..PassOptions::default() });
            for (slot, (found, whole)) in found.gradients.iter().zip(&whole.gradients).enumerate() {
                assert!(if slot == frozen[0] { found.is_none() } else { found == whole }, "{unit}, slot {slot}");
            }
            let saved = matrix(rows * HIDDEN);
            assert_eq!(found.executed.weight_gradient, whole.executed.weight_gradient - saved, "{unit}");
            assert_eq!(found.executed.input_gradient, whole.executed.input_gradient, "{unit}");
        }
    }
}

#[test]
fn a_fused_projection_is_one_unit_where_it_is_not_split() {
    let _counters = exclusive();
    let (split, mut whole) = (model(true), model(false));
    let (of_parts, of_whole) = (run(&split, PassOptions::default()), run(&whole, PassOptions::default()));
    assert_eq!(of_parts.executed, of_whole.executed);
    assert_eq!(split.parameters().slots(), whole.parameters().slots() + 3 * LAYERS);
    for (name, role, rows) in [(QKV, Role::Qkv, QUERY + 2 * KEY), (GATE_UP, Role::GateUp, 2 * INNER)] {
        let (parts, fused) = (units(&split, &of_parts, name), units(&whole, &of_whole, name));
        assert_eq!(parts.iter().map(|(unit, _)| unit.role).collect::<Vec<_>>(), role.split().unwrap());
        let below: Vec<f32> = parts.iter().flat_map(|(_, gradient)| gradient.unwrap()).copied().collect();
        assert_eq!(fused.len(), 1);
        assert_eq!(fused[0].0, UnitId::language(1, role));
        assert_eq!((fused[0].1.unwrap().len(), fused[0].1.unwrap()), (rows * HIDDEN, below.as_slice()));
    }
    freeze(&mut whole, UnitId::language(1, Role::Qkv));
    let saved = matrix((QUERY + 2 * KEY) * HIDDEN);
    let expected = Flops { weight_gradient: of_whole.executed.weight_gradient - saved, ..of_whole.executed };
    assert_eq!(run(&whole, PassOptions::default()).executed, expected);
}

#[test]
fn the_operations_of_a_whole_pass_are_known_before_it() {
    let _counters = exclusive();
    for checkpointing in [false, true] {
        let model = model(true);
        let found = run(&model, PassOptions { checkpointing, ..PassOptions::default() });
        assert_eq!(model.whole_pass(&batch().0, LABELS, checkpointing), Some(found.executed));
    }
}
