//! What the program reads is used, refused, or told: nothing is read over in silence.

use std::fs;

use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions, TensorToSave, save_checkpoint};
use serde_json::{Value, json};

use crate::program::Workspace;
use crate::tiny_checkpoint::{write_rows, write_tokenizer};

/// Changes a JSON file of the model; one that is not there begins empty.
fn change(workspace: &Workspace, file: &str, change: impl Fn(&mut Value)) {
    let path = workspace.path("model").join(file);
    let mut value = fs::read(&path).map_or(json!({}), |text| serde_json::from_slice(&text).unwrap());
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn columns_that_are_not_used_are_told_once() {
    let workspace = Workspace::new();
    let row =
        |index| json!({ "prompt": "the red fox", "completion": "runs", "id": index, "note": null, "source": "x" });
    write_rows(&workspace.path("data.jsonl"), (0..6).map(row));
    let called = workspace.call(&["train", "config.yaml"]);
    assert!(called.succeeded(), "{}", called.stderr());
    let told = called.stderr();
    let warnings: Vec<&str> = told.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{told}");
    assert!(warnings[0].contains("data.jsonl") && warnings[0].contains("`id` and `source` are not read"), "{told}");
}

#[test]
fn keys_of_the_models_files_that_are_not_known_are_told() {
    let workspace = Workspace::new();
    change(&workspace, "tokenizer_config.json", |config| config["own_key"] = true.into());
    change(&workspace, "generation_config.json", |config| {
        config["repetition_penalty"] = 1.2.into();
        config["temperature"] = 0.6.into();
    });
    let called = workspace.call(&["generate", "--model", "model", "--prompt", "the", "--max-new-tokens", "1"]);
    assert!(called.succeeded(), "{}", called.stderr());
    for part in ["`own_key` is", "`repetition_penalty: 1.2`"] {
        assert!(called.stderr().contains(part), "{}", called.stderr());
    }
    assert!(!called.stderr().contains("temperature"), "{}", called.stderr());
}

#[test]
fn generation_ends_at_every_end_token() {
    let workspace = Workspace::new();
    let generate = ["generate", "--model", "model", "--prompt", "the red fox", "--max-new-tokens", "6"];
    let free = workspace.json(&generate);
    let tokens = free["tokens"].as_array().unwrap();
    assert_eq!((tokens.len(), &free["finished"]), (6, &json!(false)));
    // The first token that is not a repetition ends the text, in whichever file it is named.
    let place = (1..tokens.len()).find(|&place| !tokens[..place].contains(&tokens[place])).unwrap_or(0);
    for file in ["generation_config.json", "config.json"] {
        for value in [tokens[place].clone(), json!([1000, tokens[place]])] {
            let before = fs::read(workspace.path("model").join(file));
            change(&workspace, file, |config| config["eos_token_id"] = value.clone());
            let ended = workspace.json(&generate);
            assert_eq!((&ended["tokens"], &ended["finished"]), (&json!(tokens[..place]), &json!(true)), "{file}");
            match before {
                Ok(text) => fs::write(workspace.path("model").join(file), text).unwrap(),
                Err(_) => fs::remove_file(workspace.path("model").join(file)).unwrap(),
            }
        }
    }
}

#[test]
fn a_token_for_padding_needs_no_row() {
    let workspace = Workspace::new();
    // As many tokens as rows; one for padding comes after them.
    write_tokenizer(&workspace.path("model"), 22);
    let plain = workspace.json(&["train", "config.yaml", "output_dir=plain"]);
    change(&workspace, "tokenizer_config.json", |config| config["pad_token"] = "<pad>".into());
    let padded = workspace.json(&["train", "config.yaml", "output_dir=padded"]);
    assert_eq!(plain["train_loss"], padded["train_loss"]);
    // Where it occurs, its row is missed.
    write_rows(&workspace.path("data.jsonl"), (0..4).map(|_| json!({ "prompt": "a", "completion": "<pad>" })));
    let told = workspace.call(&["train", "config.yaml"]).stderr();
    assert!(told.contains("data.jsonl:1") && told.contains("<pad>") && told.contains("96 rows"), "{told}");
}

#[test]
fn a_cache_serves_without_network() {
    let workspace = Workspace::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let folder = workspace.path("hub/hub/models--owner--tiny");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(folder.join("snapshots")).unwrap();
    fs::write(folder.join("refs/main"), commit).unwrap();
    fs::rename(workspace.path("model"), folder.join("snapshots").join(commit)).unwrap();
    let generate = ["generate", "--model", "owner/tiny", "--prompt", "the", "--max-new-tokens", "1"];
    let unreachable = ("HF_ENDPOINT", "http://127.0.0.1:1");
    let called = workspace.call_with(&[unreachable], &generate);
    assert!(called.succeeded() && called.stderr().starts_with("warning: owner/tiny"), "{}", called.stderr());
    let called = workspace.call_with(&[unreachable, ("TRANSFORMERS_OFFLINE", "1")], &generate);
    assert!(called.succeeded() && called.stderr().is_empty(), "{}", called.stderr());
}

#[test]
fn keys_of_the_models_config_are_honoured_refused_or_told() {
    let workspace = Workspace::new();
    let generate = ["generate", "--model", "model", "--prompt", "the", "--max-new-tokens", "1"];
    let plain = workspace.call(&generate);
    assert!(plain.succeeded() && plain.stderr().is_empty(), "{}", plain.stderr());
    change(&workspace, "config.json", |config| config["own_key"] = 3.into());
    let told = workspace.call(&generate);
    assert!(told.succeeded() && told.stderr().matches("`own_key` is not known").count() == 1, "{}", told.stderr());
    change(&workspace, "config.json", |config| config["final_logit_softcapping"] = 30.into());
    // Before anything is trained or written, too.
    for arguments in [&generate[..], &["train", "config.yaml"], &["inspect", "model"]] {
        let refused = workspace.call(arguments);
        assert!(refused.stderr().contains("`final_logit_softcapping: 30`"), "{}", refused.stderr());
        assert!(!refused.succeeded() && !workspace.path("run").exists());
    }
}

#[test]
fn tensors_that_nothing_takes_are_told_once() {
    let workspace = Workspace::new();
    change(&workspace, "config.json", |config| config["num_hidden_layers"] = 1.into());
    let called = workspace.call(&["train", "config.yaml"]);
    let told = called.stderr();
    assert!(called.succeeded() && told.lines().filter(|line| line.starts_with("warning: ")).count() == 1, "{told}");
    // Of a layer's nine tensors five are named.
    for part in ["`model.layers.1.input_layernorm.weight`", "not part of the model", "and 4 more"] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_model_with_a_head_of_its_own_is_saved_with_it() {
    let workspace = Workspace::new();
    let tied = Checkpoint::open(workspace.path("model")).unwrap();
    let shape = tied.info("model.embed_tokens.weight").unwrap().shape.clone();
    let head: Vec<f32> = (0..shape[0] * shape[1]).map(|place| (place % 7) as f32 / 8.0).collect();
    let tensors =
        tied.names().map(|name| TensorToSave::new(name, &tied.info(name).unwrap().shape, tied.load_f32(name).unwrap()));
    let tensors = tensors.chain([TensorToSave::new("lm_head.weight", &shape, head.clone())]);
    let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
    let mut config = tied.config().unwrap().clone();
    config["tie_word_embeddings"] = false.into();
    save_checkpoint(&workspace.path("both"), &config, tensors, &options).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(workspace.path("model").join(name), workspace.path("both").join(name)).unwrap();
    }
    config["tie_word_embeddings"] = true.into();
    fs::write(workspace.path("both/config.json"), config.to_string()).unwrap();

    let told = |arguments: &[&str]| {
        let called = workspace.call(arguments);
        let told = called.stderr();
        assert!(called.succeeded() && told.contains("lm_head.weight is not the embedding"), "{told}");
    };
    told(&["train", "config.yaml", "model=both", "learning_rate=0", "weight_decay=0"]);
    told(&["train", "config.yaml", "model=both", "adapter=lora", "output_dir=lora"]);
    told(&["merge", "--model", "both", "--adapter", "lora/adapter", "--output-dir", "merged", "--dtype", "f32"]);
    for folder in ["run/model", "merged"] {
        let saved = Checkpoint::open(workspace.path(folder)).unwrap();
        assert_eq!(saved.config().unwrap()["tie_word_embeddings"], false);
        assert_eq!(saved.load_f32("lm_head.weight").unwrap(), head, "{folder}");
    }
}
