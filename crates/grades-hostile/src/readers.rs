//! The readers, each a function of a file's bytes.

use std::fs;
use std::path::Path;

use grades_images::{Alpha, Limits, Processor, decode};
use grades_models::config::HfConfig;
use grades_models::template::{ChatTemplate, Given, Message};
use grades_models::tokenizer::{SpecialTokens, Tokenizer};
use grades_models::weights::Checkpoint;
use grades_models::{Error, peft, registry};
use grades_train::config::Config;
use grades_train::data::source;

use crate::corpus;

/// A reader, and files that it takes.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Its name, and its target's in `fuzz/`.
    pub name: &'static str,
    /// Reads bytes; `folder` is an empty folder for those that want files.
    pub read: fn(bytes: &[u8], folder: &Path),
    /// Files that are right.
    pub corpus: fn() -> Vec<Vec<u8>>,
}

/// Every reader of files that others may have made.
pub const READERS: [Reader; 20] = [
    Reader { name: "safetensors", read: safetensors, corpus: || with(corpus::safetensors(), &[".safetensors"]) },
    Reader { name: "safetensors_index", read: index, corpus: indices },
    Reader { name: "gguf", read: gguf, corpus: || vec![corpus::gguf()] },
    Reader { name: "tokenizer_json", read: tokenizer_json, corpus: || vec![corpus::tokenizer()] },
    Reader { name: "tokenizer_model", read: tokenizer_model, corpus: || corpus::named(&["tokenizer.model"]) },
    Reader { name: "config_json", read: config_json, corpus: || corpus::named(&["config.json", "config.v4.json"]) },
    Reader { name: "chat_template", read: chat_template, corpus: corpus::templates },
    Reader { name: "jsonl", read: |bytes, folder| data(bytes, folder, "jsonl"), corpus: corpus::rows },
    Reader {
        name: "jsonl_gz",
        read: |bytes, folder| data(bytes, folder, "jsonl.gz"),
        corpus: || corpus::compressed(corpus::gzip),
    },
    Reader {
        name: "jsonl_zst",
        read: |bytes, folder| data(bytes, folder, "jsonl.zst"),
        corpus: || corpus::compressed(corpus::zstd),
    },
    Reader { name: "json", read: |bytes, folder| data(bytes, folder, "json"), corpus: corpus::rows },
    Reader { name: "csv", read: |bytes, folder| data(bytes, folder, "csv"), corpus: tables },
    Reader {
        name: "parquet",
        read: |bytes, folder| data(bytes, folder, "parquet"),
        corpus: || corpus::named(&[".parquet"]),
    },
    Reader {
        name: "tar",
        read: |bytes, folder| data(bytes, folder, "tar"),
        corpus: || corpus::named(&[".tar", ".jsonl"]),
    },
    Reader { name: "picture", read: picture, corpus: corpus::pictures },
    Reader { name: "preprocessor", read: preprocessor, corpus: || corpus::named(&["preprocessor_config.json"]) },
    Reader { name: "adapter", read: adapter, corpus: || corpus::named(&["adapter_config.json"]) },
    Reader { name: "checkpoint", read: checkpoint, corpus: || vec![b"cbf43926 9 state.json\n".to_vec()] },
    Reader { name: "config_yaml", read: config_yaml, corpus: corpus::configs },
    Reader { name: "http_request", read: http_request, corpus: corpus::requests },
];

/// The reader of that name: a constant, so that a target of `fuzz/` is linked with no other.
///
/// # Panics
/// If there is none, which ends the compilation there.
#[must_use]
#[expect(clippy::panic, reason = "for constants alone")]
pub const fn reader(name: &str) -> Reader {
    let mut at = 0;
    while at < READERS.len() {
        if is(READERS[at].name.as_bytes(), name.as_bytes()) {
            return READERS[at];
        }
        at += 1;
    }
    panic!("no reader has this name")
}

const fn is(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

fn with(first: Vec<u8>, endings: &[&str]) -> Vec<Vec<u8>> {
    [vec![first], corpus::named(endings)].concat()
}

fn indices() -> Vec<Vec<u8>> {
    vec![br#"{"metadata":{"total_size":56},"weight_map":{"a":"model.safetensors","b":"model.safetensors"}}"#.to_vec()]
}

fn tables() -> Vec<Vec<u8>> {
    vec![b"prompt,completion\n\"the \"\"red\"\" fox\", runs\nthe boat, \"floats\nfar\"\n".to_vec()]
}

/// Puts bytes into a file; a full disk is not the reader's fault.
#[expect(clippy::disallowed_methods, reason = "syncing to the disk takes longer than the reader")]
fn put(folder: &Path, name: &str, bytes: &[u8]) -> bool {
    fs::write(folder.join(name), bytes).is_ok()
}

/// Puts the file beside which the reader finds its own, unless it is there already.
fn beside(folder: &Path, name: &str) -> bool {
    folder.join(name).exists() || put(folder, name, &corpus::safetensors())
}

fn weights(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    for name in names {
        let _ = checkpoint.load_f32(&name);
    }
}

fn safetensors(bytes: &[u8], folder: &Path) {
    if put(folder, "model.safetensors", bytes) {
        weights(&folder.join("model.safetensors"));
    }
}

fn index(bytes: &[u8], folder: &Path) {
    if put(folder, "model.safetensors.index.json", bytes) && beside(folder, "shard.safetensors") {
        weights(folder);
    }
}

fn gguf(bytes: &[u8], folder: &Path) {
    let path = folder.join("model.gguf");
    if !put(folder, "model.gguf", bytes) {
        return;
    }
    weights(&path);
    if let Ok(tokenizer) = Tokenizer::from_checkpoint(&path) {
        let _ = tokenizer.encode("a red fox, ab", true);
    }
}

fn tokenizer_json(bytes: &[u8], folder: &Path) {
    if put(folder, "tokenizer.json", bytes)
        && let Ok(tokenizer) = Tokenizer::from_checkpoint(folder)
    {
        let ids = tokenizer.encode("a red fox, ab \u{1f98a}", true).unwrap_or_default();
        let _ = tokenizer.decode(&ids, true);
    }
}

fn tokenizer_model(bytes: &[u8], folder: &Path) {
    if put(folder, "tokenizer.model", bytes)
        && let Ok(tokenizer) = Tokenizer::from_checkpoint(folder)
    {
        let ids = tokenizer.encode("a red fox, ab", true).unwrap_or_default();
        let _ = tokenizer.decode(&ids, true);
    }
}

fn config_json(bytes: &[u8], _: &Path) {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    if let Ok(config) = HfConfig::new(value) {
        let _ = outline(&config);
    }
}

/// What the model of a config, or a tower alone, is made of.
///
/// # Errors
/// The config is not sound, or of no family that there is.
pub fn outline(config: &HfConfig) -> Result<(), Error> {
    if !registry::towers().any(|tower| config.model_type().is_ok_and(|name| name == tower)) {
        return registry::outline(config, true).map(drop);
    }
    registry::outline_tower(config).map(drop)
}

fn chat_template(bytes: &[u8], _: &Path) {
    let (Ok(source), special) = (std::str::from_utf8(bytes), SpecialTokens::default()) else { return };
    if let Ok(template) = ChatTemplate::new(source, &special) {
        let messages =
            [Message::new("system", "Be brief."), Message::new("user", "Hi"), Message::new("assistant", "Hello")];
        let _ = template.render(&messages, &Given::default(), true);
    }
}

fn data(bytes: &[u8], folder: &Path, ending: &str) {
    let name = format!("rows.{ending}");
    if put(folder, &name, bytes) {
        let _ = source::read(&folder.join(name), None);
    }
}

fn picture(bytes: &[u8], _: &Path) {
    let limits = Limits { pixels: 1 << 16, bytes: 1 << 24 };
    for alpha in [Alpha::Dropped, Alpha::OnWhite] {
        let _ = decode(bytes, alpha, limits);
    }
}

fn preprocessor(bytes: &[u8], _: &Path) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        let _ = Processor::from_config(&value, None);
    }
}

fn adapter(bytes: &[u8], folder: &Path) {
    if put(folder, "adapter_config.json", bytes) && beside(folder, "adapter_model.safetensors") {
        let _ = peft::open(folder);
    }
}

fn checkpoint(bytes: &[u8], folder: &Path) {
    let step = folder.join("checkpoints/step-000001");
    if fs::create_dir_all(&step).is_ok() && put(&step, "state.json", b"123456789") && put(&step, "checksums.txt", bytes)
    {
        let _ = grades_train::train::latest_checkpoint(folder, usize::MAX);
    }
    if put(folder, "metrics.jsonl", bytes) && put(folder, "events.jsonl", bytes) && put(folder, "summary.json", bytes) {
        let _ = grades_report::read(&[folder]);
    }
}

fn config_yaml(bytes: &[u8], _: &Path) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Config::parse(text, &[]);
    }
}

fn http_request(bytes: &[u8], _: &Path) {
    let _ = grades_train::serve::understand(bytes, 1 << 20);
}
