//! Memory while a checkpoint is loaded: what the model takes in the end, and the largest tensor.
//!
//! The system counts memory by process, so this is a program of its own that calls itself for each measurement. Files are
//! read, not mapped, so that what the system counts as resident is all that is held.

use std::fs;
use std::path::Path;
use std::process::Command;

use grades_models::random::Random;
use grades_models::registry;
use grades_models::source::{LoadOptions, Source, Storage};
use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions, TensorToSave, WeightsError, save_checkpoint};
use grades_tensor::device;
use serde_json::json;

/// Where the measured process finds the checkpoint, and how it holds it.
const FOLDER: &str = "GRADES_TEST_FOLDER";
const STORAGE: &str = "GRADES_TEST_STORAGE";

const HIDDEN: usize = 512;
const INNER: usize = 1536;
const LAYERS: usize = 6;
const VOCABULARY: usize = 8192;

/// Bytes of a line of `/proc/self/status`.
fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn loading_takes_what_the_model_takes_and_the_largest_tensor() {
    if let (Some(folder), Some(storage)) = (std::env::var_os(FOLDER), std::env::var_os(STORAGE)) {
        return measure(Path::new(&folder), Storage::in_4bit(storage == "packed"));
    }
    if fs::write("/proc/self/clear_refs", "5").is_err() {
        println!("skipped: the system does not tell a process its peak of memory");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    for storage in ["packed", "dense"] {
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.env(FOLDER, folder.path()).env(STORAGE, storage).arg("--nocapture").output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{storage}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn write(folder: &Path) {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 8, "tie_word_embeddings": true,
    });
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        for (name, rows, columns) in [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", HIDDEN, HIDDEN),
            ("self_attn.v_proj", HIDDEN, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", INNER, HIDDEN),
            ("mlp.up_proj", INNER, HIDDEN),
            ("mlp.down_proj", HIDDEN, INNER),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), vec![rows, columns]));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), vec![HIDDEN]));
        }
    }
    shapes.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    let tensors = shapes.iter().map(|(name, shape)| {
        TensorToSave::deferred(name, shape, move || {
            Random::new(0).load(name, shape).map(Into::into).map_err(|e| WeightsError::Values(e.to_string()))
        })
    });
    let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
    save_checkpoint(folder, &config, tensors, &options).unwrap();
}

/// In a process of its own.
fn measure(folder: &Path, storage: Storage) {
    // As the program does.
    grades_kernels::reuse_freed_memory();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let checkpoint = Checkpoint::open(folder).unwrap();
    let options = LoadOptions { storage, ..LoadOptions::new(device("cpu").unwrap()) };
    let model = registry::open(&checkpoint, options).unwrap();
    let taken = status("VmHWM:") - before;
    let size = model.parameters().iter().map(|parameter| parameter.bytes() as u64).sum::<u64>();
    let largest = (4 * VOCABULARY * HIDDEN) as u64;
    println!("{storage:?}: the model takes {size} bytes, the largest tensor {largest}; loading took {taken}");
    // What the threads, the allocator and the buffer of a read take beside.
    let beside = 8 << 20;
    assert!(taken <= size + largest + beside, "{storage:?}: {taken} of {size} and {largest}");
    assert!(taken >= size, "{storage:?}: {taken} of {size}");
}
