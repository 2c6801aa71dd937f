//! What a user looks up with the program alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::Workspace;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The ready configs by their names.
fn configs() -> BTreeMap<String, String> {
    let mut configs = BTreeMap::new();
    for folder in ["", "paper/"] {
        for entry in fs::read_dir(root().join("configs").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "yaml") {
                let name = format!("{folder}{}", path.file_stem().unwrap().to_str().unwrap());
                configs.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    configs
}

#[test]
fn the_configs_of_the_program_are_those_of_the_repository() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/configs.json");
    let text = serde_json::to_string_pretty(&configs()).unwrap() + "\n";
    if std::env::var_os("GRADES_WRITE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "configs.json is not made of configs/; write it again with GRADES_WRITE_DOCS=1 cargo test --release -p grades-cli --test \
         suite looking_up"
    );
}

#[test]
fn a_user_who_has_only_the_program_begins_with_a_ready_config() {
    let workspace = Workspace::new();
    let list = workspace.call(&["configs"]);
    assert!(list.succeeded(), "{}", list.stderr());
    for name in configs().keys() {
        let line = list.stdout().lines().find(|line| line.split(' ').next() == Some(name)).map(str::to_owned);
        assert!(line.is_some_and(|line| line.len() > name.len() + 10), "{name}: {}", list.stdout());
    }
    let printed = workspace.call(&["configs", "first"]).stdout();
    assert!(printed.contains("tau: auto") && printed.contains("examples/comparisons.jsonl"), "{printed}");
    assert!(workspace.call(&["configs", "first", "--out", "my.yaml"]).succeeded());
    assert_eq!(fs::read_to_string(workspace.path("my.yaml")).unwrap(), printed);
    // It is a config; nothing is written over it.
    let options = [
        "train",
        "my.yaml",
        "model=model",
        "datasets.0.path=data.jsonl",
        "val_set_size=2",
        "max_steps=1",
        "output_dir=new",
    ];
    let called = workspace.call(&options);
    assert!(called.succeeded(), "{}", called.stderr());
    let again = workspace.call(&["configs", "lora", "--out", "my.yaml"]);
    assert!(!again.succeeded() && again.stderr().contains("my.yaml"), "{}", again.stderr());
    assert_eq!(fs::read_to_string(workspace.path("my.yaml")).unwrap(), printed);
    let unknown = workspace.call(&["configs", "frist"]);
    assert!(!unknown.succeeded() && unknown.stderr().contains("first"), "{}", unknown.stderr());
}

#[test]
fn a_key_is_looked_up_and_the_schema_is_printed() {
    let workspace = Workspace::new();
    let schema: Value = serde_json::from_str(&workspace.call(&["schema"]).stdout()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["properties"]["micro_batch_size"]["default"], 8);
    assert_eq!(workspace.json(&["schema"]), schema);
    let tau = workspace.call(&["schema", "--field", "early_stopping.tau"]).stdout();
    for part in
        ["early_stopping.tau (method: grades)", "The threshold.", "auto, paper-qwen3-14b-full", "default: \"auto\""]
    {
        assert!(tau.contains(part), "{part}: {tau}");
    }
    let rank = workspace.call(&["schema", "--field", "lora_r"]).stdout();
    assert!(rank.contains("a whole number from 1\n") && rank.contains("default: 16"), "{rank}");
    let patience = workspace.json(&["schema", "--field", "early_stopping.patience"]);
    assert_eq!(patience["found"].as_array().unwrap().len(), 2);
    for (wrong, near) in
        [("early_stopping.patiense", "`early_stopping.patience`"), ("lora_rr", "`lora_r`"), ("x.y", "`x.y`")]
    {
        let called = workspace.call(&["schema", "--field", wrong]);
        assert!(!called.succeeded() && called.stderr().contains(near), "{wrong}: {}", called.stderr());
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let workspace = Workspace::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let completions = workspace.call(&["completions", shell]).stdout();
        for word in ["train", "compare", "dry-run", "configs"] {
            assert!(completions.contains(word), "{shell}: {word}");
        }
    }
    assert!(workspace.call(&["man", "--out", "man"]).succeeded());
    let page = fs::read_to_string(workspace.path("man/grades-train.1")).unwrap();
    assert!(page.contains(".TH grades-train 1") && page.contains("dry"), "{page}");
    assert!(fs::read_to_string(workspace.path("man/grades.1")).unwrap().contains("preprocess"));
    let again = workspace.call(&["man", "--out", "man"]);
    assert!(!again.succeeded() && again.stderr().contains("grades.1"), "{}", again.stderr());
}
