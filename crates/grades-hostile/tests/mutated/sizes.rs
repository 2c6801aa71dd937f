//! Sizes in `config.json`, of every family and tower of `fixtures/`: none, or far too much, of what they count is refused by name, and
//! whatever a number is, nothing is allocated for it.

use grades_hostile::{READERS, outline};
use grades_models::config::HfConfig;
use serde_json::Value;

use crate::limit;

/// Most bytes of a model's outline: 576 for each of as many experts as there may be in all. Those of the fixtures take kilobytes.
const MOST: usize = 576 << 17;

/// What counts parts of a model; other numbers are tokens, lengths of texts, or say nothing.
const SIZES: &[&str] = &[
    "depth",
    "head_dim",
    "hidden_size",
    "image_size",
    "in_channels",
    "intermediate_size",
    "lm_hidden_dim",
    "lm_inter_dim",
    "lm_n_blocks",
    "lm_n_heads",
    "lm_n_kv_heads",
    "lm_vocab_size",
    "mlp_ratio",
    "moe_intermediate_size",
    "mp_pixel_shuffle_factor",
    "num_attention_heads",
    "num_channels",
    "num_experts_per_tok",
    "num_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "vit_hidden_dim",
    "vit_img_size",
    "vit_inter_dim",
    "vit_n_blocks",
    "vit_n_heads",
    "vit_patch_size",
    "vocab_size",
    "window_size",
];
/// More than any of them may be.
const TOO_MUCH: u64 = 1 << 26;

/// The whole numbers in a config, as paths.
fn numbers(value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Object(object) => {
            // What a tower has beside it in a checkpoint of two is not read.
            let parts = object.iter().filter(|(key, _)| *key != "text_config" || value["model_type"] != "siglip");
            parts.flat_map(|(key, value)| numbers(value, &format!("{path}/{key}"))).collect()
        }
        Value::Number(number) if number.is_u64() => vec![path.to_owned()],
        _ => Vec::new(),
    }
}

/// What is said of a config, if it is refused.
fn said(config: &Value) -> Option<String> {
    limit::within(MOST, || outline(&HfConfig::new(config.clone()).unwrap()).err().map(|error| error.to_string()))
}

#[test]
fn sizes_in_a_config_are_bounded_in_every_family() {
    let reader = READERS.iter().find(|reader| reader.name == "config_json").unwrap();
    let files = (reader.corpus)().into_iter().map(|file| serde_json::from_slice::<Value>(&file).unwrap());
    // Those of processors and adapters end alike.
    let configs: Vec<Value> = files.filter(|config| said(config).is_none()).collect();
    assert!(configs.len() > 20, "{} configs", configs.len());
    for (config, path) in
        configs.iter().flat_map(|config| numbers(config, "").into_iter().map(move |path| (config, path)))
    {
        let key = path.rsplit('/').next().unwrap();
        for number in [0, u64::MAX].into_iter().chain((0..64).map(|power| 1 << power)) {
            let mut config = config.clone();
            *config.pointer_mut(&path).unwrap() = number.into();
            let error = said(&config);
            // Families of experts may have none.
            let wrong = number >= TOO_MUCH || number == 0 && key != "num_local_experts";
            if SIZES.contains(&key) && wrong {
                assert!(error.as_ref().is_some_and(|error| error.contains(key)), "{path}: {number}: {error:?}");
            }
        }
    }
}
