//! Adapters in PEFT's files, against the ones that PEFT wrote.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use grades_models::parameters::Place;
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, LoraConfig, host, peft};
use serde_json::Value;

use crate::families::{Batch, Values, assert_close, fixtures, load};

fn folder() -> PathBuf {
    fixtures().join("lora")
}

fn base() -> Decoder {
    load(&folder(), "config.json", &Device::default())
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn logits(model: &Decoder) -> Vec<f32> {
    let batch = Batch::new(&Values::read(&folder().join("expected.safetensors")));
    host::read("logits", &model.logits(&batch.tokens), <[f32]>::to_vec).unwrap()
}

fn config(target: &str) -> LoraConfig {
    LoraConfig { r: 2, lora_alpha: 4.0, use_rslora: false, target_modules: vec![target.to_owned()] }
}

#[test]
fn an_adapter_is_written_as_peft_wrote_it() {
    let to = tempfile::tempdir().unwrap();
    let to = to.path().join("adapter");
    let model = peft::attach(base(), &folder()).unwrap();
    peft::save(&to, &model, Some("a/base")).unwrap();
    let (found, theirs) = (json(&to.join("adapter_config.json")), json(&folder().join("adapter_config.json")));
    for (key, value) in found.as_object().unwrap() {
        let as_set = |value: &Value| {
            let mut names: Vec<String> = value.as_array().unwrap().iter().map(ToString::to_string).collect();
            names.sort();
            names
        };
        match key.as_str() {
            "base_model_name_or_path" => assert_eq!(value, "a/base"),
            "target_modules" => assert_eq!(as_set(value), as_set(&theirs[key])),
            _ => assert_eq!(value, &theirs[key], "{key}"),
        }
    }
    let open = |folder: &Path| Checkpoint::open(folder.join("adapter_model.safetensors")).unwrap();
    let (found, theirs) = (open(&to), open(&folder()));
    assert_eq!(found.names().collect::<Vec<_>>(), theirs.names().collect::<Vec<_>>());
    for name in theirs.names() {
        assert_eq!(found.info(name).unwrap().shape, theirs.info(name).unwrap().shape);
        assert_eq!(found.load_f32(name).unwrap(), theirs.load_f32(name).unwrap(), "{name}");
    }
    // Nothing is overwritten.
    assert!(peft::save(&to, &model, None).unwrap_err().to_string().contains("already exists"));
}

#[test]
fn a_part_of_the_layers_is_named_so_that_peft_finds_it() {
    let to = tempfile::tempdir().unwrap();
    for (target, written) in [("*.1.*.q_proj", "model.layers.1.self_attn.q_proj"), ("mlp.up_proj", "up_proj")] {
        let model = base().with_adapter(config(target), &LoraConfig::initial(1)).unwrap();
        let folder = to.path().join(written);
        peft::save(&folder, &model, None).unwrap();
        assert_eq!(json(&folder.join("adapter_config.json"))["target_modules"], serde_json::json!([written]));
        let again = peft::attach(base(), &folder).unwrap();
        assert_eq!(again.parameters().len(), model.parameters().len());
    }
}

#[test]
fn a_merged_model_computes_what_the_adapter_did() {
    let plain = base();
    let places: Vec<Place> = plain.parameters().iter().map(|parameter| parameter.place).collect();
    let (without, model) = (logits(&plain), peft::attach(plain, &folder()).unwrap());
    let expected: Vec<f64> = logits(&model).into_iter().map(f64::from).collect();
    let merged = model.merged().unwrap();
    assert!(merged.adapter().is_none());
    assert_eq!(merged.parameters().iter().map(|parameter| parameter.place).collect::<Vec<_>>(), places);
    let found = logits(&merged);
    assert_close("logits after merging", &found, &expected);
    assert!(found.iter().zip(&without).any(|(found, without)| (found - without).abs() > 0.1));
    // It can be trained with another adapter.
    assert!(merged.with_adapter(config("q_proj"), &LoraConfig::initial(1)).is_ok());
}

#[test]
fn what_does_not_fit_is_told_in_a_sentence() {
    let refused = |config: LoraConfig| base().with_adapter(config, &LoraConfig::initial(0)).unwrap_err().to_string();
    let unknown = refused(config("query"));
    assert!(
        unknown.contains("`query`") && unknown.contains("down_proj, gate_proj, k_proj, o_proj, q_proj"),
        "{unknown}"
    );
    for r in [0, 17] {
        let error = refused(LoraConfig { r, ..config("k_proj") });
        assert!(error.contains(&format!("`lora_r: {r}`")) && error.contains("between 1 and 16"), "{error}");
    }
    let twice = peft::attach(peft::attach(base(), &folder()).unwrap(), &folder()).unwrap_err().to_string();
    assert!(twice.contains("has an adapter already"), "{twice}");

    let changed = |key: &str, value: Value| {
        let to = tempfile::tempdir().unwrap();
        let mut config = json(&folder().join("adapter_config.json"));
        config[key] = value;
        std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
        let tensors = "adapter_model.safetensors";
        std::fs::copy(folder().join(tensors), to.path().join(tensors)).unwrap();
        peft::attach(base(), to.path()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(changed("modules_to_save", Value::Array(Vec::new())), Ok(()));
    for (key, value, part) in [
        ("use_dora", true.into(), "`use_dora: true` is not supported"),
        ("peft_type", "IA3".into(), "IA3"),
        ("r", 8.into(), "lora_A.weight"),
        ("r", 2.5.into(), "`r`"),
        ("rank_pattern", serde_json::json!({ "q_proj": 8 }), "rank_pattern"),
        ("bias", "all".into(), "bias"),
    ] {
        let error = changed(key, value).unwrap_err();
        assert!(error.contains(part), "{key}: {error}");
    }
    let none = peft::attach(base(), &fixtures().join("llama")).unwrap_err().to_string();
    assert!(none.contains("there is no adapter here"), "{none}");
}
