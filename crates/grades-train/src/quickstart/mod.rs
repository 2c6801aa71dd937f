//! A model and a task that need no network: made from a small made-up world, and pretrained by this program.
//!
//! The model has read 40,000 sentences about the world, eight times (`configs/pretrain.yaml`). Of two qualities it has also
//! read which of two things has more of it, asked in other words than the task does; of two others it knows only statements.
//! So the task has something to teach. One in five of its training answers is wrong: who trains to the end learns those by
//! heart.

mod tokenizer;
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use grades_fs::Error;
use serde::Serialize;
use serde_json::{Value, json};

pub use world::{Question, World};

/// The weights, as `configs/pretrain.yaml` leaves them.
const WEIGHTS: &[u8] = include_bytes!("model.safetensors");
/// What the runs of the quickstart have in common.
const CONFIG: &str = include_str!("config.yaml");
/// The task, and with it the name of its folder.
pub const TASK: &str = "multiple_choice";

const THINGS: usize = 32;
const SEED: u64 = 1;
const SENTENCES: usize = 40_000;
const TRAINING_QUESTIONS: usize = 980;
const TEST_QUESTIONS: usize = 1000;
/// Share of the training answers that are wrong.
const WRONG: f64 = 0.2;

/// What [`write`] leaves in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The config of the runs.
    pub config: PathBuf,
    /// The folder of the task's folder.
    pub data: PathBuf,
    /// Where the runs go.
    pub runs: PathBuf,
}

/// Writes what the quickstart needs: `model/`, `data/multiple_choice/{train,test}.jsonl` and `config.yaml`.
///
/// # Errors
/// A file cannot be written, or one of that name is there.
pub fn write(folder: &Path) -> Result<Files, Error> {
    let mut world = World::new(THINGS, SEED);
    let files = Files { config: folder.join("config.yaml"), data: folder.join("data"), runs: folder.join("runs") };
    write_description(&folder.join("model"), &world)?;
    write_file(&folder.join("model/model.safetensors"), WEIGHTS)?;
    let (train, test) = world.questions(TRAINING_QUESTIONS, TEST_QUESTIONS, WRONG);
    let questions = files.data.join(TASK);
    write_rows(&questions.join("train.jsonl"), &train)?;
    write_rows(&questions.join("test.jsonl"), &test)?;
    // As JSON, which is YAML too, whatever letters a path has.
    let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
    let config = CONFIG
        .replace("MODEL", &quoted(&folder.join("model")))
        .replace("RUNS", &quoted(&files.runs))
        .replace("DATA", &quoted(&questions));
    write_file(&files.config, config.as_bytes())?;
    Ok(files)
}

/// Writes what the model is pretrained from: `corpus.jsonl`, and `model/` with its description and its tokenizer.
///
/// # Errors
/// A file cannot be written, or one of that name is there.
pub fn write_corpus(folder: &Path) -> Result<(), Error> {
    let mut world = World::new(THINGS, SEED);
    write_description(&folder.join("model"), &world)?;
    let sentences = world.sentences(SENTENCES).into_iter().map(|text| json!({ "text": text }));
    write_rows(&folder.join("corpus.jsonl"), &sentences.collect::<Vec<_>>())
}

/// Writes `config.json` and the tokenizer.
fn write_description(folder: &Path, world: &World) -> Result<(), Error> {
    let tokenizer = tokenizer::of_words(&world.words());
    let vocabulary = tokenizer["model"]["vocab"].as_object().map_or(0, serde_json::Map::len);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 96,
        "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 24, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "vocab_size": vocabulary, "initializer_range": 0.05,
        "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32",
    });
    for (name, value) in
        [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", tokenizer::config())]
    {
        write_file(&folder.join(name), format!("{value:#}\n").as_bytes())?;
    }
    Ok(())
}

fn write_rows<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), Error> {
    let lines: Result<String, _> = rows.iter().map(|row| Ok(serde_json::to_string(row)? + "\n")).collect();
    let lines = lines.map_err(|error: serde_json::Error| Error { path: path.into(), source: error.into() })?;
    write_file(path, lines.as_bytes())
}

fn write_file(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(|source| Error { path: folder.to_owned(), source })?;
    grades_fs::create(path, contents)
}

#[cfg(test)]
mod tests;
