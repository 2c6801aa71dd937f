//! A checkpoint small enough to train in a test: the `llama` fixture with a tokenizer of one token a letter, and data of
//! made-up sentences.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Everything that the tokenizer knows beside its special tokens; `Ġ` and `Ċ` are byte-level for space and new line.
const LETTERS: &str = "ĠĊabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!'-";

/// The folder of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Writes the checkpoint of a family's fixture: two layers of width 32, a vocabulary of 96, a context of 128.
pub(crate) fn write(folder: &Path, family: &str) {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture(family).join(name), folder.join(name)).unwrap();
    }
    write_tokenizer(folder, 0);
}

/// Writes a tokenizer of 68 tokens and `more` that no text uses.
pub(crate) fn write_tokenizer(folder: &Path, more: usize) {
    let special = ["<unk>", "<s>", "</s>"];
    let tokens = special.map(str::to_owned).into_iter().chain(LETTERS.chars().map(String::from));
    let unused = (0..more).map(|index| format!("<unused{index}>"));
    let vocabulary: Map<String, Value> =
        tokens.chain(unused).enumerate().map(|(id, token)| (token, id.into())).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>", "fuse_unk": false,
                   "byte_fallback": false, "dropout": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "ignore_merges": false },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({ "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>" });
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// Writes `count` rows of `prompt` and `completion`, of different lengths.
pub(crate) fn write_sentences(path: &Path, count: usize) {
    const ADJECTIVES: [&str; 5] = ["red", "small", "quiet", "old", "bright"];
    const NOUNS: [&str; 7] = ["fox", "river", "lantern", "boat", "garden", "bell", "kite"];
    let row = |index: usize| {
        let (adjective, noun, other) = (ADJECTIVES[index % 5], NOUNS[index % 7], NOUNS[(3 * index + 1) % 7]);
        json!({ "prompt": format!("the {adjective} {noun} likes the"), "completion": format!(" {other}") })
    };
    write_rows(path, (0..count).map(row));
}

/// Writes a jsonl file.
pub(crate) fn write_rows(path: &Path, rows: impl Iterator<Item = Value>) {
    fs::write(path, rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}
