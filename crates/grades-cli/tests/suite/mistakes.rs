//! What is wrong is told in one sentence that names it; nothing panics, and nothing half-written stays behind.

use std::fs;

use serde_json::{Value, json};

use crate::program::Workspace;
use crate::tiny_checkpoint::{write_rows, write_tokenizer};

const EVAL: [&str; 7] = ["eval", "--model", "model", "--tasks", "piqa", "--data-dir", "."];

/// Calls the program and checks that it refuses in one line that names all of `named`.
#[track_caller]
fn refuses(workspace: &Workspace, arguments: &[&str], named: &[&str]) {
    let called = workspace.call(arguments);
    let (stdout, stderr) = (called.stdout(), called.stderr());
    assert_eq!(called.code(), Some(1), "{arguments:?}: {stdout}{stderr}");
    assert_eq!(stdout, "", "{arguments:?}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
    for part in named {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
    for told_once in ["No such file", "os error"] {
        assert!(stderr.matches(told_once).count() <= 1, "told twice: {stderr}");
    }
}

/// A training run that is refused before it begins.
#[track_caller]
fn train_refuses(workspace: &Workspace, options: &[&str], named: &[&str]) {
    refuses(workspace, &[&["train", "config.yaml"][..], options].concat(), named);
    assert!(!workspace.path("run").exists(), "{options:?} left a run directory");
}

fn change_config_of_model(workspace: &Workspace, change: impl Fn(&mut Value)) {
    let path = workspace.path("model/config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn missing_files() {
    let workspace = Workspace::new();
    refuses(&workspace, &["train", "absent.yaml"], &["absent.yaml", "No such file"]);
    train_refuses(&workspace, &["model=absent"], &["absent"]);
    train_refuses(&workspace, &["datasets.0.path=absent.jsonl"], &["absent.jsonl"]);
    refuses(&workspace, &["inspect", "absent"], &["absent"]);
    refuses(&workspace, &["generate", "--model", "absent", "--prompt", "a"], &["absent"]);
    let with = |model, data| ["eval", "--model", model, "--tasks", "piqa", "--data-dir", data];
    refuses(&workspace, &with("absent", "."), &["absent"]);
    refuses(&workspace, &with("model", "absent"), &["absent/piqa"]);
    let of_pictures = [&EVAL[..], &["--image-backend", "pillow"]].concat();
    refuses(&workspace, &of_pictures, &["model", "reads no pictures", "image_backend: pillow"]);
    fs::remove_file(workspace.path("model/tokenizer.json")).unwrap();
    for arguments in [&EVAL[..], &["generate", "--model", "model", "--prompt", "a"]] {
        refuses(&workspace, arguments, &["model", "tokenizer"]);
    }
    train_refuses(&workspace, &[], &["model", "tokenizer"]);
    fs::remove_file(workspace.path("model/model.safetensors")).unwrap();
    refuses(&workspace, &["inspect", "model"], &["model"]);
}

#[test]
fn wrong_architecture() {
    let workspace = Workspace::new();
    change_config_of_model(&workspace, |config| config["model_type"] = "bert".into());
    let named = ["bert", "llama"];
    train_refuses(&workspace, &[], &named);
    refuses(&workspace, &["inspect", "model"], &named);
    refuses(&workspace, &["generate", "--model", "model", "--prompt", "a"], &named);
    refuses(&workspace, &[&EVAL[..], &["--samples", "samples.jsonl"]].concat(), &named);
    assert!(!workspace.path("samples.jsonl").exists());
    change_config_of_model(&workspace, |config| {
        config.as_object_mut().unwrap().remove("model_type");
    });
    train_refuses(&workspace, &[], &["model_type"]);
}

#[test]
fn a_config_that_cannot_be_used() {
    let workspace = Workspace::new();
    train_refuses(&workspace, &["learning_rat=1e-3"], &["learning_rat", "learning_rate"]);
    train_refuses(&workspace, &["early_stopping.taw=1"], &["early_stopping.taw"]);
    train_refuses(&workspace, &["learning_rate=fast"], &["learning_rate", "fast"]);
    train_refuses(&workspace, &["micro_batch_size=0"], &["micro_batch_size"]);
    train_refuses(&workspace, &["learning_rate"], &["learning_rate", "key=value"]);
    train_refuses(&workspace, &["datasets.0.type=tales"], &["tales", "completion"]);
    train_refuses(&workspace, &["val_set_size=12"], &["val_set_size", "12"]);
    train_refuses(
        &workspace,
        &["early_stopping={method: grades, tau: {language.9.q: 1.0, default: 1.0}}"],
        &["language.9.q"],
    );
    fs::write(workspace.path("broken.yaml"), "model: [model\n").unwrap();
    refuses(&workspace, &["train", "broken.yaml"], &["broken.yaml"]);
    fs::write(workspace.path("unknown.yaml"), "model: model\ndatasets: []\ncolour: red\n").unwrap();
    refuses(&workspace, &["train", "unknown.yaml"], &["colour"]);
}

#[test]
fn rows_that_do_not_fit() {
    let workspace = Workspace::new();
    let data = workspace.path("data.jsonl");
    let good = || json!({ "prompt": "the old boat likes the", "completion": " river" });
    write_rows(&data, [good(), good(), json!({ "prompt": "the kite" })].into_iter());
    train_refuses(&workspace, &[], &["data.jsonl", "3", "completion"]);
    let long = json!({ "prompt": "a ".repeat(70), "completion": "b" });
    write_rows(&data, [good(), good(), good(), long].into_iter());
    train_refuses(&workspace, &[], &["data.jsonl", "4", "sequence_len", "128"]);
    fs::write(&data, "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \n").unwrap();
    train_refuses(&workspace, &[], &["data.jsonl", "2"]);
    fs::write(&data, "").unwrap();
    train_refuses(&workspace, &[], &["data.jsonl"]);

    let samples = [&EVAL[..], &["--samples", "samples.jsonl"]].concat();
    let questions = workspace.path("piqa/validation.jsonl");
    write_rows(&questions, [json!({ "goal": "Float.", "sol1": "Swim.", "label": 0 })].into_iter());
    refuses(&workspace, &samples, &["validation.jsonl", "sol2"]);
    write_rows(&questions, [json!({ "goal": "Float.", "sol1": "Swim.", "sol2": "Sink.", "label": 5 })].into_iter());
    refuses(&workspace, &samples, &["validation.jsonl"]);
    assert!(!workspace.path("samples.jsonl").exists());
    refuses(&workspace, &["eval", "--model", "model", "--tasks", "pika", "--data-dir", "."], &["pika", "piqa"]);
}

#[test]
fn truncated_safetensors() {
    let workspace = Workspace::new();
    let path = workspace.path("model/model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        train_refuses(&workspace, &[], &["model.safetensors"]);
        refuses(&workspace, &["inspect", "model"], &["model.safetensors"]);
    }
    refuses(&workspace, &EVAL, &["model.safetensors"]);
}

/// A llama file with one tensor.
fn gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let number =
        |key: &str, value: u32| [text(key), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat();
    let epsilon = [text("llama.attention.layer_norm_rms_epsilon"), 6_u32.to_le_bytes().to_vec()].concat();
    let metadata = [
        [text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text("llama")].concat(),
        number("llama.context_length", 64),
        number("llama.embedding_length", 32),
        number("llama.feed_forward_length", 48),
        number("llama.block_count", 1),
        number("llama.attention.head_count", 4),
        [epsilon, 1e-5_f32.to_le_bytes().to_vec()].concat(),
    ];
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    file.extend(metadata.concat());
    // token_embd of 96 rows of 32, as F32 from the start of the data.
    file.extend(text("token_embd.weight"));
    file.extend([2_u32.to_le_bytes().to_vec(), [32_u64, 96].map(u64::to_le_bytes).concat()].concat());
    file.extend([0_u32.to_le_bytes().to_vec(), 0_u64.to_le_bytes().to_vec()].concat());
    file.resize(file.len().next_multiple_of(32) + 4 * 32 * 96, 0);
    file
}

#[test]
fn truncated_gguf() {
    let workspace = Workspace::new();
    let (path, whole) = (workspace.path("model.gguf"), gguf());
    fs::write(&path, &whole).unwrap();
    assert!(workspace.call(&["inspect", "model.gguf"]).succeeded(), "the file is sound before it is cut");
    for length in [0, 3, 20, 60, 300, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        refuses(&workspace, &["inspect", "model.gguf"], &["model.gguf"]);
        train_refuses(&workspace, &["model=model.gguf"], &["model.gguf"]);
        refuses(&workspace, &["generate", "--model", "model.gguf", "--prompt", "a"], &["model.gguf"]);
    }
}

#[test]
fn weights_of_another_model() {
    let workspace = Workspace::new();
    change_config_of_model(&workspace, |config| config["intermediate_size"] = 64.into());
    train_refuses(&workspace, &[], &["mlp.gate_proj", "48", "64"]);
    change_config_of_model(&workspace, |config| {
        config["intermediate_size"] = 48.into();
        config["num_hidden_layers"] = 3.into();
    });
    train_refuses(&workspace, &[], &["model.layers.2."]);
    refuses(&workspace, &EVAL, &["model.layers.2."]);
}

#[test]
fn a_tokenizer_that_does_not_fit() {
    let workspace = Workspace::new();
    write_tokenizer(&workspace.path("model"), 40);
    let named = ["<unused39>", "96"];
    train_refuses(&workspace, &[], &named);
    refuses(&workspace, &["generate", "--model", "model", "--prompt", "a"], &named);
    refuses(&workspace, &[&EVAL[..], &["--samples", "samples.jsonl"]].concat(), &named);
    assert!(!workspace.path("samples.jsonl").exists());
    fs::write(workspace.path("model/tokenizer.json"), "{").unwrap();
    train_refuses(&workspace, &[], &["tokenizer.json"]);
}

#[test]
fn a_loss_that_is_no_number() {
    let workspace = Workspace::new();
    refuses(&workspace, &["train", "config.yaml", "learning_rate=1.0e+30"], &[" of step ", "learning_rate"]);
    assert!(!workspace.path("run/model").exists());
}

#[test]
fn an_existing_run_directory() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("run")).unwrap();
    fs::write(workspace.path("run/notes.txt"), "mine").unwrap();
    refuses(&workspace, &["train", "config.yaml"], &["run", "output_dir"]);
    assert_eq!(fs::read_dir(workspace.path("run")).unwrap().count(), 1);
    fs::write(workspace.path("samples.jsonl"), "mine").unwrap();
    refuses(&workspace, &[&EVAL[..], &["--samples", "samples.jsonl"]].concat(), &["samples.jsonl"]);
    assert_eq!(fs::read_to_string(workspace.path("samples.jsonl")).unwrap(), "mine");
}

#[test]
fn prompts_and_options_that_cannot_be_used() {
    let workspace = Workspace::new();
    let generate = |options: &[&'static str]| [&["generate", "--model", "model"][..], options].concat();
    refuses(&workspace, &generate(&["--prompt", ""]), &["prompt", "empty"]);
    let long = "the small kite likes the quiet river and the old boat likes the bright garden and the red fox \
                              likes the small bell in the old garden";
    refuses(&workspace, &generate(&["--prompt", long]), &["prompt", "128"]);
    refuses(&workspace, &generate(&["--prompt", "a", "--temperature=-1"]), &["temperature"]);
    refuses(&workspace, &generate(&["--prompt", "a", "--top-p", "0"]), &["top_p"]);
    refuses(&workspace, &generate(&["--prompt", "a", "--chat"]), &["chat"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_does_not_fit_in_memory_is_refused_before_it_begins() {
    let workspace = Workspace::new();
    let config = json!({
        "model_type": "llama", "hidden_size": 65_536, "intermediate_size": 262_144, "num_hidden_layers": 200,
        "num_attention_heads": 512, "vocab_size": 96, "max_position_embeddings": 4096,
    });
    fs::write(workspace.path("huge.json"), config.to_string()).unwrap();
    let options = ["init=random", "model={config: huge.json, tokenizer: model}"];
    train_refuses(&workspace, &options, &["GB of memory", "adapter: lora", "--dry-run"]);
    assert!(!workspace.path("run").exists());
}
