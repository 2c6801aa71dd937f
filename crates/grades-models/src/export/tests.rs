//! What is written is read back as it was, with the logits of the original.

use serde_json::json;
use tempfile::TempDir;

use super::{FileType, Model, save_adapter};
use crate::config::HfConfig;
use crate::registry;
use crate::tokenizer::Tokenizer;
use crate::weights::gguf::{Metadata, MetadataValue};
use crate::weights::{Checkpoint, Dtype};

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
