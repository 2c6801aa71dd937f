//! Adapters in PEFT's files, against the ones that PEFT wrote.

use std::path::Path;

use grades::{Role, UnitId};
use grades_models::config::HfConfig;
use grades_models::model::PassOptions;
use grades_models::nn::DropoutKey;
use grades_models::parameters::{Parameter, Place};
use grades_models::random::Random;
use grades_models::source::LoadOptions;
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, LoraConfig, peft, registry};
use serde_json::{Value, json};

use crate::fixture::{self, Batch, Values, assert_close, cpu, find, find_each, held, in_f64, relative_error, written};

/// Adapters of PEFT: plain ones, and weight-decomposed ones beside biases.
const KINDS: [&str; 2] = ["lora", "dora"];

fn base(folder: &Path) -> Decoder {
    fixture::base(folder, "config.json")
}

fn batch(folder: &Path) -> Batch {
    Batch::new(&base(folder), &Values::expected(folder))
}

fn config(target: &str) -> LoraConfig {
    LoraConfig { r: 2, lora_alpha: 4.0, target_modules: vec![target.to_owned()], ..LoraConfig::default() }
}

fn places(model: &Decoder) -> Vec<Vec<Place>> {
    let of = |parameter: &Parameter| parameter.pieces().iter().map(|piece| piece.place).collect();
    model.parameters().iter().map(of).collect()
}

fn parameter<'a>(model: &'a Decoder, end: &str) -> &'a Parameter {
    model.parameters().iter().find(|parameter| parameter.name.ends_with(end)).unwrap()
}

#[test]
fn an_adapter_is_written_as_peft_wrote_it() {
    for (_, from) in find_each(&KINDS) {
        let to = tempfile::tempdir().unwrap();
        let to = to.path().join("adapter");
        let model = peft::attach(base(&from), &from).unwrap();
        peft::save(&to, &model, Some("a/base")).unwrap();
        let config = |folder: &Path| fixture::json(&folder.join("adapter_config.json"));
        let (found, theirs) = (config(&to), config(&from));
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
    let Some(lora) = find("lora") else { return };
    let to = tempfile::tempdir().unwrap();
    let last = base(&lora).sizes().num_hidden_layers - 1;
    let (one, written_one) = (format!("*.{last}.*.q_proj"), format!("model.layers.{last}.self_attn.q_proj"));
    for (target, written) in [(one.as_str(), written_one.as_str()), ("mlp.up_proj", "up_proj")] {
        let model = base(&lora).with_adapter(config(target), &LoraConfig::initial(1)).unwrap();
        let folder = to.path().join(written);
        peft::save(&folder, &model, None).unwrap();
        assert_eq!(fixture::json(&folder.join("adapter_config.json"))["target_modules"], json!([written]));
        let again = peft::attach(base(&lora), &folder).unwrap();
        assert_eq!(again.parameters().len(), model.parameters().len());
    }
}

#[test]
fn a_merged_model_computes_what_the_adapter_did() {
    for (_, folder) in find_each(&KINDS) {
        let (plain, batch) = (base(&folder), batch(&folder));
        let places_before = places(&plain);
        let (without, mut model) = (batch.logits(&plain), peft::attach(plain, &folder).unwrap());
        let expected = in_f64(&batch.logits(&model));
        // What does not train is frozen: folded, the adapters are still there, and merging adds nothing.
        model.fold_frozen();
        let folded = batch.logits(&model);
        assert_close("logits after folding", &folded, &expected);
        let in_file = written(&model);
        let merged = model.merged();
        assert!(folded == batch.logits(&merged) && in_file == held(&merged));
        let beside = peft::attach(base(&folder), &folder).unwrap();
        let in_file = written(&beside);
        let merged = beside.merged();
        assert!(merged.adapter().is_none());
        assert!(in_file == held(&merged));
        assert_eq!(places(&merged), places_before);
        let found = batch.logits(&merged);
        assert_close("logits after merging", &found, &expected);
        assert!(relative_error(&found, &in_f64(&without)) > 0.01);
        // It can be trained with another adapter.
        assert!(merged.with_adapter(config("q_proj"), &LoraConfig::initial(1)).is_ok());
    }
}

#[test]
fn a_fused_projection_has_one_adapter() {
    let Some(folder) = find("phi3") else { return };
    let batch = batch(&folder);
    let targets = ["qkv_proj".to_owned(), "gate_up_proj".to_owned()].to_vec();
    let values = Random { seed: 1, std: 0.2 };
    let config = LoraConfig { target_modules: targets, ..config("") };
    let model = base(&folder).with_adapter(config, &values).unwrap();
    for (module, role) in [("self_attn.qkv_proj", Role::Qkv), ("mlp.gate_up_proj", Role::GateUp)] {
        for matrix in ["lora_A", "lora_B"] {
            let pair = parameter(&model, &format!("layers.1.{module}.{matrix}.weight"));
            let [piece] = pair.pieces() else { panic!("{}: {:?}", pair.name, pair.pieces()) };
            assert_eq!(piece.place, Place::Unit(UnitId::language(1, role)));
        }
    }
    let to = tempfile::tempdir().unwrap();
    let to = to.path().join("adapter");
    peft::save(&to, &model, None).unwrap();
    let written = &fixture::json(&to.join("adapter_config.json"))["target_modules"];
    assert_eq!(*written, json!(["gate_up_proj", "qkv_proj"]));
    let expected = in_f64(&batch.logits(&model));
    let again = peft::attach(base(&folder), &to).unwrap();
    assert_close("logits after saving", &batch.logits(&again), &expected);
    let merged = model.merged();
    assert_close("logits after merging", &batch.logits(&merged), &expected);
    assert_eq!(places(&merged), places(&base(&folder)));
    assert!(relative_error(&batch.logits(&base(&folder)), &expected) > 0.01);
}

#[test]
fn magnitudes_begin_as_the_norms_of_the_rows() {
    let Some(folder) = find("dora") else { return };
    let (plain, batch) = (base(&folder), batch(&folder));
    let without = in_f64(&batch.logits(&plain));
    let model = plain.with_adapter(LoraConfig { use_dora: true, ..config("v_proj") }, &LoraConfig::initial(1)).unwrap();
    let weight = parameter(&model, "layers.1.self_attn.v_proj.weight");
    let magnitudes = parameter(&model, "layers.1.self_attn.v_proj.lora_magnitude_vector");
    assert_eq!(magnitudes.shape, [weight.rows()]);
    for (row, magnitude) in weight.to_host().chunks(weight.row_len()).zip(magnitudes.to_host().iter()) {
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((norm / magnitude - 1.0).abs() < 1e-6, "{norm}, {magnitude}");
    }
    assert_close("logits", &batch.logits(&model), &without);
}

#[test]
fn dropout_is_of_training_alone_and_that_of_its_key() {
    let Some(folder) = find("lora") else { return };
    let ((config, values), batch) = (peft::open(&folder).unwrap(), batch(&folder));
    let exact = peft::attach(base(&folder), &folder).unwrap();
    let model = base(&folder).with_adapter(LoraConfig { lora_dropout: 0.25, ..config }, &values).unwrap();
    assert!(batch.logits(&model) == batch.logits(&exact));
    let loss = |model: &Decoder, dropout| batch.pass(model, PassOptions { dropout, ..PassOptions::default() }).0;
    let key = |seed, step, micro_batch| Some(DropoutKey { seed, step, micro_batch });
    let without = loss(&exact, None);
    assert!(loss(&model, None) == without && loss(&exact, key(1, 1, 0)) == without);
    let mut losses = vec![without];
    for key in [key(1, 1, 0), key(2, 1, 0), key(1, 2, 0), key(1, 1, 1)] {
        let found = loss(&model, key);
        assert!(found == loss(&model, key) && !losses.contains(&found), "{key:?}: {found} after {losses:?}");
        losses.push(found);
    }
}

#[test]
fn targets_and_ranks_that_do_not_fit_are_told_in_a_sentence() {
    let Some(folder) = find("lora") else { return };
    let refused =
        |config: LoraConfig| base(&folder).with_adapter(config, &LoraConfig::initial(0)).unwrap_err().to_string();
    let unknown = refused(config("query"));
    assert!(
        unknown.contains("`query`") && unknown.contains("down_proj, gate_proj, k_proj, o_proj, q_proj"),
        "{unknown}"
    );
    let plain = base(&folder);
    let most = parameter(&plain, "k_proj.weight").shape.iter().copied().min().unwrap();
    for r in [0, most + 1] {
        let error = refused(LoraConfig { r, ..config("k_proj") });
        let range = format!("between 1 and {most}");
        assert!(error.contains(&format!("`lora_r: {r}`")) && error.contains(&range), "{error}");
    }
    let twice = peft::attach(peft::attach(plain, &folder).unwrap(), &folder).unwrap_err().to_string();
    assert!(twice.contains("has an adapter already"), "{twice}");
}

/// The error of attaching the adapter in `folder` with one key of its config changed.
fn changed(folder: &Path, key: &str, value: Value) -> Result<(), String> {
    let to = tempfile::tempdir().unwrap();
    let mut config = fixture::json(&folder.join("adapter_config.json"));
    config[key] = value;
    std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
    let tensors = "adapter_model.safetensors";
    std::fs::copy(folder.join(tensors), to.path().join(tensors)).unwrap();
    peft::attach(base(folder), to.path()).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn files_that_cannot_be_used_are_told_in_a_sentence() {
    let Some(folder) = find("lora") else { return };
    let rank = fixture::json(&folder.join("adapter_config.json"))["r"].as_u64().unwrap();
    assert_eq!(changed(&folder, "modules_to_save", json!([])), Ok(()));
    for (key, value, part) in [
        ("use_qalora", true.into(), "`use_qalora: true` is not supported"),
        ("use_dora", true.into(), "lora_magnitude_vector"),
        ("peft_type", "IA3".into(), "IA3"),
        ("r", (2 * rank).into(), "lora_A.weight"),
        ("r", 2.5.into(), "`r: 2.5`"),
        ("r", 0.into(), "`r: 0`"),
        ("r", Value::Null, "`r` is missing"),
        ("lora_alpha", 0.into(), "`lora_alpha: 0`"),
    ] {
        let error = changed(&folder, key, value).unwrap_err();
        assert!(error.contains(part), "{key}: {error}");
    }
    if let Some(folder) = find("dora") {
        // Magnitudes that nobody asked for.
        let error = changed(&folder, "use_dora", false.into()).unwrap_err();
        assert!(error.contains("lora_magnitude_vector is not the A or B"), "{error}");
    }
    if let Some(llama) = find("llama") {
        let none = peft::attach(base(&folder), &llama).unwrap_err().to_string();
        assert!(none.contains("there is no adapter here"), "{none}");
    }
}

#[test]
fn a_base_that_an_adapter_does_not_fit_is_told_in_a_sentence() {
    let Some(folder) = find("lora") else { return };
    let config = fixture::json(&folder.join("config.json"));
    let number = |key: &str| config[key].as_u64().unwrap();
    // A base without some of the adapter's layers, and one of other sizes.
    let other = |key: &str, value: u64| {
        let mut config = config.clone();
        config[key] = value.into();
        let config = HfConfig::new(config).unwrap();
        let model = registry::load(&config, &Random::new(1), LoadOptions::new(cpu())).unwrap();
        peft::attach(model, &folder).unwrap_err().to_string()
    };
    let layers = number("num_hidden_layers") - 1;
    let shallow = other("num_hidden_layers", layers);
    let missing = format!("does not fit: the model has no layer model.layers.{layers}.");
    assert!(shallow.contains(&missing), "{shallow}");
    let (inner, rank) =
        (number("intermediate_size") + 8, fixture::json(&folder.join("adapter_config.json"))["r"].clone());
    let wide = other("intermediate_size", inner);
    let shape = format!("[{inner}, {rank}]");
    assert!(wide.contains("does not fit") && wide.contains("lora_B.weight") && wide.contains(&shape), "{wide}");
}

/// Every key of PEFT's `LoraConfig` that changes what an adapter computes or what it belongs to, and one that PEFT does not have.
#[test]
fn what_an_adapter_cannot_be_without_is_refused_by_name() {
    let Some(folder) = find("lora") else { return };
    let begun = |name: &str| ("init_lora_weights", json!(name));
    let refused = [
        begun("pissa"),
        begun("pissa_niter_4"),
        begun("olora"),
        begun("corda"),
        begun("lora_ga"),
        begun("loftq"),
        begun("of_later_days"),
        ("alora_invocation_tokens", json!([3, 4])),
        ("alpha_pattern", json!({ "q_proj": 16 })),
        ("arrow_config", json!({ "top_k": 3 })),
        ("bias", json!("lora_only")),
        ("fan_in_fan_out", json!(true)),
        ("kasa_config", json!({ "beta": 0.1 })),
        ("layer_replication", json!([[0, 2], [1, 2]])),
        ("lora_bias", json!(true)),
        ("megatron_config", json!({ "hidden_size": 3 })),
        ("modules_to_save", json!(["lm_head"])),
        ("monteclora_config", json!({ "num_samples": 8 })),
        ("rank_pattern", json!({ "q_proj": 8 })),
        ("target_parameters", json!(["mlp.experts.down_proj"])),
        ("task_type", json!("SEQ_CLS")),
        ("trainable_token_indices", json!([1])),
        ("use_bdlora", json!({ "nblocks": 2 })),
        ("use_qalora", json!(true)),
        ("of_later_days", json!(3)),
    ];
    for (key, value) in refused {
        let error = changed(&folder, key, value).unwrap_err();
        assert!(error.contains("adapter_config.json") && error.contains(&format!("`{key}")), "{key}: {error}");
    }
    let harmless = [
        begun("gaussian"),
        begun("orthogonal"),
        begun("eva"),
        begun("mica"),
        ("init_lora_weights", json!(false)),
        ("eva_config", json!({ "rho": 2.0 })),
        ("layers_to_transform", json!([0, 1])),
        ("revision", json!("main")),
        ("target_modules", json!("all-linear")),
        ("of_later_days", json!(false)),
        ("of_later_days", json!({})),
    ];
    for (key, value) in harmless {
        assert_eq!(changed(&folder, key, value), Ok(()), "{key}");
    }
}
