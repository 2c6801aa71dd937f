//! What is written is read back as it was, with the logits of the original.

use std::sync::Arc;

use grades_tensor::{Layout, device};
use serde_json::json;
use tempfile::TempDir;

use super::{FileType, Model, save_adapter};
use crate::config::HfConfig;
use crate::parameters::Groups;
use crate::random::Random;
use crate::source::{Form, LoadOptions};
use crate::tokenizer::Tokenizer;
use crate::weights::gguf::{Metadata, MetadataValue};
use crate::weights::{Checkpoint, Dtype};
use crate::{Decoder, Inputs, registry};

fn fixture(name: &str) -> std::path::PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/").to_owned().parse::<std::path::PathBuf>().unwrap().join(name)
}

/// A byte-level tokenizer of 96 tokens, as small as the fixtures' vocabularies.
fn tokenizer(dir: &std::path::Path) -> Tokenizer {
    let vocab: serde_json::Map<String, serde_json::Value> =
        ('!'..='z').chain(['Ġ']).enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    let mut vocab = vocab;
    vocab.insert("ab".to_owned(), json!(91));
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [
            { "id": 92, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true },
            { "id": 93, "content": "<tool>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false },
        ],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"]] },
    });
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("tokenizer.json"), definition.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), r#"{"eos_token": "<|end|>", "chat_template": "{{ messages }}"}"#)
        .unwrap();
    Tokenizer::from_checkpoint(dir).unwrap()
}

/// Every family is written and read back: the same tensors, and a config that describes the same model.
#[test]
fn each_family_comes_back_as_it_was() {
    for name in ["llama", "qwen2", "qwen3", "phi3", "phi3_long", "mistral"] {
        let dir = TempDir::new().unwrap();
        let original = Checkpoint::open(fixture(name)).unwrap();
        let tokenizer = tokenizer(&dir.path().join("tokenizer"));
        let out = dir.path().join("out");
        let model = Model::of_checkpoint(name, &original, &tokenizer).unwrap();
        let files = model.save(&out, &[FileType::F32]).unwrap();
        let written = Checkpoint::open(&files[0]).unwrap();
        let names: Vec<&str> = model.tensors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(written.names().collect::<Vec<_>>(), names);
        for tensor in names {
            assert_eq!(written.load_f32(tensor).unwrap(), original.load_f32(tensor).unwrap(), "{name}: {tensor}");
        }
        let described = |checkpoint: &Checkpoint| HfConfig::new(checkpoint.config().unwrap().clone()).unwrap();
        let [was, is] = [&original, &written].map(|checkpoint| registry::sizes(&described(checkpoint)).unwrap());
        assert_eq!(is, was, "{name}");
        // Nothing is overwritten.
        let error = model.save(&out, &[FileType::F32]).unwrap_err().to_string();
        assert!(error.contains("already exists"), "{error}");
        // The tokenizer too.
        let read = Tokenizer::from_checkpoint(&files[0]).unwrap();
        for text in ["abba", "a<|end|>b", "x<tool>ab"] {
            assert_eq!(read.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap());
        }
        // A row without a token has none again.
        assert_eq!((tokenizer.token(95), read.token(95)), (None, None));
        assert_eq!((read.eos_id(), read.chat_template()), (tokenizer.eos_id(), tokenizer.chat_template()));
    }
}

/// What llama.cpp has in its code and not in the file is as its models are; the values are random.
#[test]
fn families_that_llama_cpp_fixes_in_its_code_come_back_with_their_logits() {
    let common = json!({
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "vocab_size": 96, "max_position_embeddings": 64, "num_hidden_layers": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "initializer_range": 0.2, "tie_word_embeddings": false,
    });
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 2.0 });
    for more in [
        json!({ "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2 }),
        json!({ "model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "norm_topk_prob": true }),
        json!({ "model_type": "smollm3", "num_hidden_layers": 5, "tie_word_embeddings": true }),
        json!({ "model_type": "gemma3_text", "num_hidden_layers": 7, "query_pre_attn_scalar": 8, "sliding_window": 4,
            "tie_word_embeddings": true, "rope_local_base_freq": 1e4, "hidden_activation": "gelu_pytorch_tanh" }),
        json!({ "model_type": "llama", "rope_scaling": yarn }),
    ] {
        let mut config = common.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let dir = TempDir::new().unwrap();
        let tokenizer = tokenizer(&dir.path().join("tokenizer"));
        let options = LoadOptions::new(device("cpu").unwrap());
        let values = Random { std: 0.3, ..Random::new(5) };
        let original = registry::load(&HfConfig::new(config.clone()).unwrap(), &values, options).unwrap();
        let out = dir.path().join("out");
        let model = Model::of_decoder("tiny", &config, &original, &tokenizer).unwrap();
        let files = model.save(&out, &[FileType::F32, FileType::Q8_0, FileType::BF16]).unwrap();
        let logits = |model: &Decoder| {
            let ids: Vec<u32> = (0..40).map(|i| i * 7 % 96).collect();
            let layout = Layout::packed(std::slice::from_ref(&(0..ids.len())));
            model.logits(&Inputs::tokens(Arc::new(ids), Arc::new(layout))).to_host().into_owned()
        };
        let expected = logits(&original);
        let largest = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
        let open = |file, options| logits(&registry::open(&Checkpoint::open(file).unwrap(), options).unwrap());
        let close = |found: &[f32], expected: &[f32]| {
            let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-5 * largest, "{more}: {off} of {largest}");
        };
        close(&open(&files[0], options), &expected);
        // The blocks of a quantised file give the same numbers packed and decoded.
        close(&open(&files[1], options.in_4bit(true)), &open(&files[1], options));
        // So do embedding and head where they stay in blocks, too, and all that a file has in bf16.
        let fixed = options.fixed(Groups::ALL);
        close(&open(&files[1], fixed.in_4bit(true)), &open(&files[1], options));
        assert_eq!(open(&files[2], fixed), open(&files[2], options), "{more}");
        let held = |file, options, dtype| {
            let model = registry::open(&Checkpoint::open(file).unwrap(), options).unwrap();
            let all = model.parameters().iter().filter(|parameter| parameter.shape.len() > 1);
            all.filter(|parameter| parameter.value.dtype() != dtype).map(|p| p.name.clone()).collect::<Vec<_>>()
        };
        assert!(
            held(&files[1], fixed.in_4bit(true), grades_tensor::Dtype::Packed)
                .iter()
                .all(|name| name.contains("gate.weight"))
        );
        // Experts of a GGUF file lie in one tensor, and a router there is f32.
        assert!(held(&files[2], fixed, grades_tensor::Dtype::Bf16).iter().all(|name| name.contains("gate.weight")));
        let written = Checkpoint::open(&files[2]).unwrap();
        let halves: Vec<&str> = written.names().filter(|name| written.form(name) == Form::Half).collect();
        assert!(halves.len() > 7, "{halves:?}");
        for name in halves {
            let found = written.load_half(name).unwrap().iter().map(|value| value.to_f32()).collect::<Vec<_>>();
            assert_eq!(found, written.load_f32(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn what_llama_cpp_would_compute_otherwise_is_refused() {
    for (folder, key) in [
        ("qwen3_moe", "mlp_only_layers"),
        ("smollm3", "layers without rotary"),
        ("yarn", "truncate"),
        ("dynamic", "rotary positions"),
    ] {
        let dir = TempDir::new().unwrap();
        let tokenizer = tokenizer(&dir.path().join("tokenizer"));
        let original = Checkpoint::open(fixture(folder)).unwrap();
        let model = Model::of_checkpoint(folder, &original, &tokenizer).unwrap();
        let error = model.save(&dir.path().join("out"), &[FileType::F32]).unwrap_err().to_string();
        assert!(error.contains(key), "{folder}: {error}");
    }
}

#[test]
fn quantised_files_have_their_mix_and_a_modelfile() {
    let dir = TempDir::new().unwrap();
    let original = Checkpoint::open(fixture("llama")).unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    let out = dir.path().join("out");
    let model = Model::of_checkpoint("tiny", &original, &tokenizer).unwrap();
    let files = model.save(&out, &[FileType::Q4_K_M, FileType::Q8_0]).unwrap();
    assert_eq!(files, [out.join("tiny-Q4_K_M.gguf"), out.join("tiny-Q8_0.gguf")]);
    let modelfile = std::fs::read_to_string(out.join("Modelfile")).unwrap();
    assert!(modelfile.starts_with("FROM ./tiny-Q4_K_M.gguf\n") && modelfile.contains("PARAMETER stop \"<|end|>\""));
    let kind = |file: usize, tensor: &str| Checkpoint::open(&files[file]).unwrap().info(tensor).unwrap().dtype;
    // Rows of 32 are no super-blocks.
    let named = |kind: Dtype| kind.to_string();
    assert_eq!(named(kind(0, "model.layers.0.self_attn.q_proj.weight")), "Q5_0");
    assert_eq!(named(kind(0, "model.embed_tokens.weight")), "Q8_0");
    assert_eq!(named(kind(1, "model.layers.1.self_attn.k_proj.weight")), "Q8_0");
    // And those of 48 no blocks at all.
    assert_eq!(named(kind(1, "model.layers.1.mlp.down_proj.weight")), "F16");
    assert_eq!(named(kind(1, "model.norm.weight")), "F32");
    let metadata = Metadata::open(&files[0]).unwrap();
    assert_eq!(metadata.get("general.file_type"), Some(&MetadataValue::Integer(15)));
    for tensor in original.names() {
        let [was, is] = [&original, &Checkpoint::open(&files[1]).unwrap()].map(|from| from.load_f32(tensor).unwrap());
        let most = was.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        assert!(was.iter().zip(&is).all(|(was, is)| (was - is).abs() <= most / 200.0), "{tensor}");
    }
}

#[test]
fn an_adapter_has_llama_cpps_names_and_row_order() {
    let dir = TempDir::new().unwrap();
    let config = Checkpoint::open(fixture("lora")).unwrap().config().unwrap().clone();
    let file = save_adapter(&fixture("lora"), &config, FileType::F32, (dir.path(), "tiny")).unwrap();
    assert_eq!(file, dir.path().join("tiny-lora-F32.gguf"));
    let metadata = Metadata::open(&file).unwrap();
    assert_eq!(metadata.string("general.type"), Some("adapter"));
    assert_eq!(metadata.string("adapter.type"), Some("lora"));
    assert!(matches!(metadata.get("adapter.lora.alpha"), Some(MetadataValue::Float(_))));
    let error = Checkpoint::open(&file).unwrap_err().to_string();
    assert!(error.contains("adapter"), "{error}");
    let error = save_adapter(&fixture("lora"), &config, FileType::F32, (dir.path(), "tiny")).unwrap_err().to_string();
    assert!(error.contains("already exists"), "{error}");
    let error = save_adapter(&fixture("dora"), &config, FileType::F16, (dir.path(), "dora")).unwrap_err().to_string();
    assert!(error.contains("DoRA") || error.contains("does not"), "{error}");
}

/// A Qwen2.5-VL is two files, which together are the model again; the one of what reads pictures is as llama.cpp's rules make it.
#[test]
fn what_reads_pictures_has_a_file_of_its_own() {
    let dir = TempDir::new().unwrap();
    let original = Checkpoint::open(fixture("vision/qwen2_5_vl_rows")).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(fixture("vision/qwen2_5_vl_rows")).unwrap();
    let text = std::fs::read(fixture("vision/qwen2_5_vl_rows/preprocessor_config.json")).unwrap();
    let processor: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let model = Model::of_checkpoint("qwen", &original, &tokenizer).unwrap();
    assert!(model.sees());
    let out = dir.path().join("out");
    let language = model.save(&out, &[FileType::F32]).unwrap().remove(0);
    // Alone it is no model.
    let alone = Checkpoint::open(&language).unwrap_err().to_string();
    assert!(alone.contains("mmproj") && !alone.contains('\n'), "{alone}");
    let mmproj = model.save_mmproj(&out, FileType::F32, Some(&processor)).unwrap();
    assert!(mmproj.ends_with("mmproj-qwen-F32.gguf"));
    assert!(model.save_mmproj(&out, FileType::F32, None).unwrap_err().to_string().contains("already exists"));
    // The folder holds both.
    for written in [Checkpoint::open(&out), Checkpoint::open_with_mmproj(&language, &mmproj)] {
        let written = written.unwrap();
        let (names, theirs): (Vec<&str>, Vec<&str>) = (written.names().collect(), original.names().collect());
        assert_eq!(names, theirs);
        for name in names {
            assert_eq!(written.info(name).unwrap().shape, original.info(name).unwrap().shape, "{name}");
            assert_eq!(written.load_f32(name).unwrap(), original.load_f32(name).unwrap(), "{name}");
        }
        for key in ["min_pixels", "max_pixels", "patch_size", "merge_size"] {
            assert_eq!(written.processor().unwrap()[key], processor[key], "{key}");
        }
        // They are f32 in a file.
        let channels =
            |file: &serde_json::Value, key: &str| serde_json::from_value::<[f32; 3]>(file[key].clone()).unwrap();
        for key in ["image_mean", "image_std"] {
            assert_eq!(channels(written.processor().unwrap(), key), channels(&processor, key), "{key}");
        }
        // The same rows of pictures and texts.
        let mut config = written.config().unwrap().clone();
        config["image_token_id"] = original.config().unwrap()["image_token_id"].clone();
        let config = HfConfig::new(config).unwrap();
        let load = || LoadOptions::new(device("cpu").unwrap());
        let again = registry::load(&config, &written, load()).unwrap();
        let first = registry::open(&original, load()).unwrap();
        let logits = |model: &Decoder| {
            let grid = crate::nn::Grid::still(4, 4);
            let tower = model.vision().unwrap();
            let values = (0..16 * tower.patch_numbers()).map(|i| (i as f32 * 0.37).sin()).collect();
            let patches = model.device().from_host(values, [16, tower.patch_numbers()]);
            let pictures = Arc::new(tower.pictures(patches, vec![grid]).unwrap());
            let token = tower.token().unwrap();
            let ids = vec![3, token, token, token, token, 5];
            model
                .logits(&model.read(ids, std::slice::from_ref(&(0..6)), Some(pictures)).unwrap())
                .to_host()
                .into_owned()
        };
        assert_eq!(logits(&again), logits(&first));
    }
    // Against the one that the fixtures' script made by the rules of llama.cpp's converter.
    let theirs = fixture("vision/qwen2_5_vl_rows/mmproj.gguf");
    let ours = model.save_mmproj(&dir.path().join("f16"), FileType::Q8_0, Some(&processor)).unwrap();
    assert!(ours.ends_with("mmproj-qwen-F16.gguf"));
    let [found, expected] = [&ours, &theirs].map(|file| crate::weights::gguf::testing::raw(file));
    assert_eq!(found.1, expected.1, "tensors");
    let harmless =
        ["general.name", "clip.vision.image_min_pixels", "clip.vision.image_max_pixels", "clip.vision.window_size"];
    for (key, value) in &found.0 {
        let same = expected.0.get(key) == Some(value);
        assert!(same || harmless.contains(&key.as_str()), "{key}: {value:?}, expected {:?}", expected.0.get(key));
    }
    assert!(expected.0.keys().all(|key| found.0.contains_key(key)));
}

#[test]
fn a_nanovlm_has_no_gguf_file() {
    let original = Checkpoint::open(fixture("vision/nanovlm_split")).unwrap();
    let dir = TempDir::new().unwrap();
    let tokenizer = tokenizer(dir.path());
    let error = Model::of_checkpoint("nano", &original, &tokenizer).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("nanoVLM") && !error.contains('\n'), "{error}");
}
