//! Adapters in PEFT's files, against the ones that PEFT wrote.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use grades_models::nn::{DecoderConfig, Draw, PassOptions};
use grades_models::parameters::Place;
use grades_models::random::Random;
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, LoraConfig, host, peft};
use serde_json::Value;

use crate::families::{Batch, Values, assert_close, fixtures, load};

/// Adapters of PEFT: plain ones, and weight-decomposed ones beside biases.
const KINDS: [&str; 2] = ["lora", "dora"];

fn folder(kind: &str) -> PathBuf {
    fixtures().join(kind)
}

fn base(kind: &str) -> Decoder {
    load(&folder(kind), "config.json", &Device::default())
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn logits(model: &Decoder) -> Vec<f32> {
    let batch = Batch::new(&Values::read(&folder("lora").join("expected.safetensors")));
    host::read("logits", &model.logits(&batch.tokens), <[f32]>::to_vec).unwrap()
}

fn config(target: &str) -> LoraConfig {
    LoraConfig { r: 2, lora_alpha: 4.0, target_modules: vec![target.to_owned()], ..LoraConfig::default() }
}

#[test]
fn an_adapter_is_written_as_peft_wrote_it() {
    for kind in KINDS {
        let (to, from) = (tempfile::tempdir().unwrap(), folder(kind));
        let to = to.path().join("adapter");
        let model = peft::attach(base(kind), &from).unwrap();
        peft::save(&to, &model, Some("a/base")).unwrap();
        let (found, theirs) = (json(&to.join("adapter_config.json")), json(&from.join("adapter_config.json")));
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
        let (found, theirs) = (open(&to), open(&from));
        assert_eq!(found.names().collect::<Vec<_>>(), theirs.names().collect::<Vec<_>>());
        for name in theirs.names() {
            assert_eq!(found.info(name).unwrap().shape, theirs.info(name).unwrap().shape);
            assert_eq!(found.load_f32(name).unwrap(), theirs.load_f32(name).unwrap(), "{name}");
        }
        // Nothing is overwritten.
        assert!(peft::save(&to, &model, None).unwrap_err().to_string().contains("already exists"));
    }
}

#[test]
fn a_part_of_the_layers_is_named_so_that_peft_finds_it() {
    let to = tempfile::tempdir().unwrap();
    for (target, written) in [("*.1.*.q_proj", "model.layers.1.self_attn.q_proj"), ("mlp.up_proj", "up_proj")] {
        let model = base("lora").with_adapter(config(target), &LoraConfig::initial(1)).unwrap();
        let folder = to.path().join(written);
        peft::save(&folder, &model, None).unwrap();
        assert_eq!(json(&folder.join("adapter_config.json"))["target_modules"], serde_json::json!([written]));
        let again = peft::attach(base("lora"), &folder).unwrap();
        assert_eq!(again.parameters().len(), model.parameters().len());
    }
}

#[test]
fn a_merged_model_computes_what_the_adapter_did() {
    for kind in KINDS {
        let plain = base(kind);
        let places: Vec<Place> = plain.parameters().iter().map(|parameter| parameter.place).collect();
        let (without, mut model) = (logits(&plain), peft::attach(plain, &folder(kind)).unwrap());
        let expected: Vec<f64> = logits(&model).into_iter().map(f64::from).collect();
        // What does not train is frozen: folded, the adapters are still there, and merging adds nothing.
        model.fold_frozen().unwrap();
        assert_close("logits after folding", &logits(&model), &expected);
        let folded = logits(&model);
        assert!(folded == logits(&model.merged().unwrap()));
        let merged = peft::attach(base(kind), &folder(kind)).unwrap().merged().unwrap();
        assert!(merged.adapter().is_none());
        assert_eq!(merged.parameters().iter().map(|parameter| parameter.place).collect::<Vec<_>>(), places);
        let found = logits(&merged);
        assert_close("logits after merging", &found, &expected);
        assert!(found.iter().zip(&without).any(|(found, without)| (found - without).abs() > 0.1));
        // It can be trained with another adapter.
        assert!(merged.with_adapter(config("q_proj"), &LoraConfig::initial(1)).is_ok());
    }
}

#[test]
fn magnitudes_begin_as_the_norms_of_the_rows() {
    let plain = base("dora");
    let without: Vec<f64> = logits(&plain).into_iter().map(f64::from).collect();
    let model = plain.with_adapter(LoraConfig { use_dora: true, ..config("v_proj") }, &LoraConfig::initial(1)).unwrap();
    let of = |name: &str| {
        let parameter = model.parameters().iter().find(|parameter| parameter.name.ends_with(name)).unwrap();
        (host::read(name, &parameter.value, <[f32]>::to_vec).unwrap(), parameter.shape.clone())
    };
    let (weight, _) = of("layers.1.self_attn.v_proj.weight");
    let (magnitudes, shape) = of("layers.1.self_attn.v_proj.lora_magnitude_vector");
    assert_eq!(shape, [16]);
    for (row, magnitude) in weight.chunks(32).zip(&magnitudes) {
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((norm / magnitude - 1.0).abs() < 1e-6, "{norm}, {magnitude}");
    }
    assert_close("logits", &logits(&model), &without);
}

#[test]
fn dropout_is_of_training_alone_and_that_of_its_draw() {
    let (config, values) = peft::open(&folder("lora")).unwrap();
    let exact = peft::attach(base("lora"), &folder("lora")).unwrap();
    let model = base("lora").with_adapter(LoraConfig { lora_dropout: 0.25, ..config }, &values).unwrap();
    assert!(logits(&model) == logits(&exact));
    let expected = Values::read(&folder("lora").join("expected.safetensors"));
    let batch = Batch::new(&expected);
    let loss = |model: &Decoder, draw| {
        let options = PassOptions { draw, ..PassOptions::default() };
        let pass = model.pass(&batch.tokens, batch.targets.clone(), batch.scale(), options);
        host::read("loss", pass.loss(), |loss| loss[0]).unwrap()
    };
    let draw = |seed, step, micro_batch| Some(Draw { seed, step, micro_batch });
    let without = loss(&exact, None);
    assert!(loss(&model, None) == without && loss(&exact, draw(1, 1, 0)) == without);
    let mut losses = vec![without];
    for draw in [draw(1, 1, 0), draw(2, 1, 0), draw(1, 2, 0), draw(1, 1, 1)] {
        let found = loss(&model, draw);
        assert!(found == loss(&model, draw) && !losses.contains(&found), "{draw:?}: {found} after {losses:?}");
        losses.push(found);
    }
}

#[test]
fn what_does_not_fit_is_told_in_a_sentence() {
    let refused =
        |config: LoraConfig| base("lora").with_adapter(config, &LoraConfig::initial(0)).unwrap_err().to_string();
    let unknown = refused(config("query"));
    assert!(
        unknown.contains("`query`") && unknown.contains("down_proj, gate_proj, k_proj, o_proj, q_proj"),
        "{unknown}"
    );
    for r in [0, 17] {
        let error = refused(LoraConfig { r, ..config("k_proj") });
        assert!(error.contains(&format!("`lora_r: {r}`")) && error.contains("between 1 and 16"), "{error}");
    }
    let twice =
        peft::attach(peft::attach(base("lora"), &folder("lora")).unwrap(), &folder("lora")).unwrap_err().to_string();
    assert!(twice.contains("has an adapter already"), "{twice}");

    let changed = |key: &str, value: Value| {
        let to = tempfile::tempdir().unwrap();
        let mut config = json(&folder("lora").join("adapter_config.json"));
        config[key] = value;
        std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
        let tensors = "adapter_model.safetensors";
        std::fs::copy(folder("lora").join(tensors), to.path().join(tensors)).unwrap();
        peft::attach(base("lora"), to.path()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(changed("modules_to_save", Value::Array(Vec::new())), Ok(()));
    for (key, value, part) in [
        ("use_qalora", true.into(), "`use_qalora: true` is not supported"),
        ("use_dora", true.into(), "lora_magnitude_vector"),
        ("peft_type", "IA3".into(), "IA3"),
        ("r", 8.into(), "lora_A.weight"),
        ("r", 2.5.into(), "`r`"),
        ("rank_pattern", serde_json::json!({ "q_proj": 8 }), "rank_pattern"),
        ("bias", "all".into(), "bias"),
    ] {
        let error = changed(key, value).unwrap_err();
        assert!(error.contains(part), "{key}: {error}");
    }
    // Magnitudes that nobody asked for, a base without the adapter's layers, and one of other sizes.
    let to = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder("dora").join(name), to.path().join(name)).unwrap();
    }
    let mut config = json(&to.path().join("adapter_config.json"));
    config["use_dora"] = false.into();
    std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
    let error = peft::attach(base("dora"), to.path()).unwrap_err().to_string();
    assert!(error.contains("lora_magnitude_vector is not the A or B"), "{error}");
    let other = |change: fn(&mut DecoderConfig)| {
        let mut config = base("lora").config().clone();
        change(&mut config);
        let model = Decoder::load(config, &Random::new(1), &Device::default()).unwrap();
        peft::attach(model, &folder("lora")).unwrap_err().to_string()
    };
    let shallow = other(|config| config.num_hidden_layers = 1);
    assert!(shallow.contains("does not fit: the model has no layer model.layers.1."), "{shallow}");
    let wide = other(|config| config.intermediate_size = 56);
    assert!(wide.contains("does not fit") && wide.contains("lora_B.weight") && wide.contains("[56, 4]"), "{wide}");
    let none = peft::attach(base("lora"), &fixtures().join("llama")).unwrap_err().to_string();
    assert!(none.contains("there is no adapter here"), "{none}");
}
