//! What passes over pictures execute: as much as the wiring says, nothing below what trains, and nothing of what is known.

use std::sync::Arc;

use grades::{Flops, Tower};
use grades_models::config::HfConfig;
use grades_models::model::{PassOptions, Pictures, Replaced, Rows};
use grades_models::nn::Grid;
use grades_models::parameters::{Group, Piece};
use grades_models::random::Random;
use grades_models::{Decoder, Inputs, registry};
use grades_tensor::{Gradients, IGNORE_INDEX, executed};
use serde_json::{Value, json};

use crate::model::{exclusive, options};

const TOKEN: u32 = 20;
/// Layers of the tower.
const LAYERS: usize = 3;

fn nanovlm() -> Value {
    json!({
        "vit_hidden_dim": 8, "vit_inter_dim": 12, "vit_patch_size": 2, "vit_img_size": 8, "vit_n_heads": 2, "vit_n_blocks": LAYERS,
        "lm_hidden_dim": 12, "lm_inter_dim": 10, "lm_base_vocab_size": TOKEN, "lm_vocab_size": 23, "lm_n_heads": 2, "lm_n_kv_heads": 1,
        "lm_n_blocks": 2, "mp_pixel_shuffle_factor": 2, "vlm_extra_tokens": { "image_token": "<|image|>" },
    })
}

fn qwen() -> Value {
    json!({
        "model_type": "qwen2_5_vl", "image_token_id": TOKEN, "vocab_size": 23, "hidden_size": 12, "intermediate_size": 10,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6, "rope_scaling": { "mrope_section": [1, 1, 1] },
        "vision_config": { "depth": LAYERS, "hidden_size": 8, "intermediate_size": 12, "num_heads": 2, "patch_size": 2, "window_size": 4,
            "fullatt_block_indexes": [1] },
    })
}

/// A model all of which trains, two pictures, and a batch of a text with each and of one without.
fn prepared(config: Value) -> (Decoder, Arc<Pictures>, Inputs, Arc<Vec<i64>>) {
    let config = HfConfig::new(config).unwrap();
    let mut model = registry::load(&config, &Random { seed: 3, std: 0.3 }, options()).unwrap();
    model.parameters_mut().train();
    let (vision, grids) = (model.vision().unwrap(), vec![Grid::still(4, 4); 2]);
    let patches = Random { seed: 4, std: 1.0 };
    let shape = [32, vision.patch_numbers()];
    let values = grades_models::source::Source::load(&patches, "patches", &shape).unwrap();
    let pictures = Arc::new(vision.pictures(options().device.from_host(values, shape), grids).unwrap());
    let sample = [&[1, TOKEN, TOKEN, TOKEN, TOKEN][..], &[5, 6]].concat();
    let ids = [sample.clone(), sample, vec![7, 8, 9]].concat();
    let inputs = model.read(ids, &[0..7, 7..14, 14..17], Some(pictures.clone())).unwrap();
    let mut targets = vec![IGNORE_INDEX; 17];
    for (row, target) in [(4, 5), (5, 6), (12, 5), (14, 8), (15, 9)] {
        targets[row] = target;
    }
    (model, pictures, inputs, Arc::new(targets))
}

type Outcome = (f32, Vec<Option<Vec<f32>>>, Flops);

fn run(model: &Decoder, inputs: &Inputs, targets: &Arc<Vec<i64>>, checkpointing: bool) -> Outcome {
    let before = executed();
    let pass = model.pass(inputs, targets.clone(), 0.2, PassOptions { checkpointing, ..PassOptions::default() });
    let (loss, mut gradients) = (pass.loss().to_host()[0], Gradients::new(model.parameters().slots()));
    pass.backward(&mut gradients);
    let executed = executed().since(&before);
    let slots = 0..model.parameters().slots();
    (loss, slots.map(|slot| gradients.take(slot).map(|gradient| gradient.to_host().into_owned())).collect(), executed)
}

fn in_tower(piece: &Piece, heights: std::ops::RangeInclusive<usize>) -> bool {
    piece.place.height().is_some_and(|(tower, height)| tower == Tower::Vision && heights.contains(&height))
}

#[test]
fn a_whole_pass_executes_what_the_wiring_says() {
    let _counters = exclusive();
    for config in [nanovlm(), qwen()] {
        let (model, _, inputs, targets) = prepared(config);
        for checkpointing in [false, true] {
            let found = run(&model, &inputs, &targets, checkpointing);
            assert_eq!(model.whole_pass(&inputs, 5, checkpointing), Some(found.2));
        }
    }
}

#[test]
fn nothing_below_what_trains_in_the_tower_is_walked_back() {
    let _counters = exclusive();
    for config in [nanovlm(), qwen()] {
        let (mut model, pictures, inputs, targets) = prepared(config);
        let whole = run(&model, &inputs, &targets, false).2;
        let mut before = whole;
        // The patches and a layer more each time, and at last the projector.
        for frozen in 1..=LAYERS + 1 {
            let all = frozen > LAYERS;
            let freezes = |piece: &Piece| in_tower(piece, 0..=frozen) || all && piece.place.group() != Group::Language;
            model.parameters_mut().set_trainable(|piece| freezes(piece).then_some(false));
            let found = run(&model, &inputs, &targets, false);
            let again = run(&model, &inputs, &targets, true);
            assert!((again.0, &again.1) == (found.0, &found.1), "{frozen} frozen layers");
            let (found, again) = (found.2, again.2);
            assert_eq!(found.forward, whole.forward);
            assert!(found.weight_gradient < before.weight_gradient);
            // The texts' own embeddings train on, and so does what is above them.
            let fewer = found.input_gradient < before.input_gradient;
            assert!(if all { found.input_gradient <= before.input_gradient } else { fewer });
            assert_eq!((again.weight_gradient, again.input_gradient), (found.weight_gradient, found.input_gradient));
            assert_eq!(model.frozen_vision_layers(), frozen.min(LAYERS + usize::from(all)));
            before = found;
        }
        // Rows that are known leave the texts alone.
        let rows = model.picture_rows(&pictures).unwrap();
        let replaced =
            inputs.replaced.clone().map(|Replaced { rows: at, .. }| Replaced { rows: at, by: Rows::Known(rows) });
        let known = Inputs { replaced, ..inputs.clone() };
        let found = run(&model, &known, &targets, false);
        assert_eq!((found.0, &found.1), (run(&model, &inputs, &targets, false).0, &found.1));
        let text = model.whole_pass(&known, 5, false).unwrap();
        assert_eq!(found.2.forward, text.forward);
        assert!(found.2.forward < whole.forward);
    }
}
