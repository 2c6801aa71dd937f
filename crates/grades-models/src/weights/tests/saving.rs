//! Saving and loading again.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use ::safetensors::SafeTensors;
use grades_kernels::quant::Nf4;
use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fixture, values};
use crate::source::Form;
use crate::weights::{
    Checkpoint, Dtype, SaveDtype, SaveOptions, TensorToSave, WeightsError, nf4_tensors, quantization_config,
    save_checkpoint,
};

fn options(dtype: SaveDtype) -> SaveOptions<'static> {
    SaveOptions { dtype, ..SaveOptions::default() }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// All tensors of a checkpoint, loaded when they are written.
fn all(checkpoint: &Checkpoint) -> Vec<TensorToSave<'_>> {
    checkpoint
        .names()
        .map(|name| {
            let shape = &checkpoint.info(name).unwrap().shape;
            TensorToSave::deferred(name, shape, move || checkpoint.load_f32(name).map(Cow::Owned))
        })
        .collect()
}

#[test]
fn a_saved_checkpoint_loads_with_the_same_values() {
    let dir = TempDir::new().unwrap();
    let original = Checkpoint::open(fixture("llama")).unwrap();
    for (dtype, stored, name, round) in [
        (SaveDtype::F32, Dtype::F32, "float32", (|v| v) as fn(f32) -> f32),
        (SaveDtype::F16, Dtype::F16, "float16", |v| f16::from_f32(v).to_f32()),
        (SaveDtype::BF16, Dtype::BF16, "bfloat16", |v| bf16::from_f32(v).to_f32()),
    ] {
        let target = dir.path().join(name);
        save_checkpoint(&target, original.config().unwrap(), all(&original), &options(dtype)).unwrap();
        let saved = Checkpoint::open(&target).unwrap();
        assert_eq!(saved.names().collect::<Vec<_>>(), original.names().collect::<Vec<_>>());
        for tensor in original.names() {
            let expected: Vec<f32> = original.load_f32(tensor).unwrap().into_iter().map(round).collect();
            assert_eq!(saved.load_f32(tensor).unwrap(), expected, "{tensor}");
            // As it lies in the file, where that is bf16 and nothing else.
            assert_eq!(saved.form(tensor) == Form::Half, dtype == SaveDtype::BF16, "{tensor}");
            match saved.load_half(tensor) {
                Ok(found) => assert_eq!(found.iter().map(|v| v.to_f32()).collect::<Vec<_>>(), expected, "{tensor}"),
                Err(error) => assert!(error.to_string().contains("not as BF16"), "{error}"),
            }
            assert_eq!(saved.info(tensor).unwrap().dtype, stored);
            assert_eq!(saved.info(tensor).unwrap().shape, original.info(tensor).unwrap().shape);
        }
        let bytes = fs::read(target.join("model.safetensors")).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        // The fixture's config is one of transformers 5, whose key is dtype.
        assert_eq!(json(&target.join("config.json"))["dtype"], name);
        assert_eq!(json(&target.join("config.json")).get("torch_dtype"), None);
    }
    assert_eq!(files(dir.path()), ["bfloat16", "float16", "float32"], "nothing is left beside the checkpoints");
}

#[test]
fn a_tied_head_is_not_written_and_the_config_gives_the_generation_config() {
    let dir = TempDir::new().unwrap();
    let weights = values(8, 11);
    let tensors = || {
        ["model.embed_tokens.weight", "lm_head.weight"].map(|name| TensorToSave::new(name, &[2, 4], weights.as_slice()))
    };
    let tied = json!({ "tie_word_embeddings": true, "eos_token_id": [2, 3], "bos_token_id": null });
    save_checkpoint(&dir.path().join("tied"), &tied, tensors(), &options(SaveDtype::F32)).unwrap();
    assert_eq!(Checkpoint::open(dir.path().join("tied")).unwrap().names().count(), 1);
    let generation = json!({ "_from_model_config": true, "eos_token_id": [2, 3] });
    let saved = Checkpoint::open(dir.path().join("tied")).unwrap();
    assert_eq!(saved.generation_config(), Some(&generation));
    assert_eq!(saved.config().unwrap()["torch_dtype"], "float32");

    let untied = json!({ "tie_word_embeddings": false });
    save_checkpoint(&dir.path().join("untied"), &untied, tensors(), &options(SaveDtype::F32)).unwrap();
    assert_eq!(Checkpoint::open(dir.path().join("untied")).unwrap().names().count(), 2);
    assert_eq!(files(&dir.path().join("untied")), ["config.json", "model.safetensors"]);

    let given = json!({ "temperature": 0.5 });
    let options = SaveOptions { generation_config: Some(&given), ..options(SaveDtype::F32) };
    save_checkpoint(&dir.path().join("given"), &tied, tensors(), &options).unwrap();
    assert_eq!(json(&dir.path().join("given/generation_config.json")), given);
}

#[test]
fn large_checkpoints_are_sharded_with_an_index() {
    let dir = TempDir::new().unwrap();
    let weights = values(64, 12);
    let tensors = [("a", 16), ("b", 8), ("c", 64), ("d", 4), ("e", 4)]
        .map(|(name, size)| TensorToSave::new(name, &[size], &weights[..size]));
    // 100 bytes: a and b (96), c (256, alone), d and e (32).
    let options = SaveOptions { max_shard_size: 100, ..options(SaveDtype::F32) };
    let target = dir.path().join("model");
    save_checkpoint(&target, &json!({}), tensors, &options).unwrap();
    let shard = |n: u32| format!("model-{n:05}-of-00003.safetensors");
    assert_eq!(
        json(&target.join("model.safetensors.index.json")),
        json!({
            "metadata": { "total_size": 384 },
            "weight_map": { "a": shard(1), "b": shard(1), "c": shard(2), "d": shard(3), "e": shard(3) },
        })
    );
    let saved = Checkpoint::open(&target).unwrap();
    assert_eq!(saved.load_f32("c").unwrap(), weights);
    assert_eq!(saved.load_f32("e").unwrap(), weights[..4]);
}

/// Three blocks of scales of 256, the last of them short, in matrices whose rows end within blocks.
#[test]
fn nf4_is_read_back_as_it_was_encoded() {
    let dir = TempDir::new().unwrap();
    let matrices = [([257, 129], values(257 * 129, 3)), ([3, 21], values(63, 4))];
    let target = dir.path().join("model");
    let save = |target: &Path, matrices: &[([usize; 2], Vec<f32>)]| {
        let quantization = quantization_config(SaveDtype::BF16);
        let mut tensors = vec![TensorToSave::new("norm.weight", &[4], values(4, 5))];
        for (index, (shape, values)) in matrices.iter().enumerate() {
            tensors.extend(nf4_tensors(&format!("{index}.weight"), *shape, SaveDtype::BF16, || values.clone()));
        }
        let options = SaveOptions { quantization_config: Some(&quantization), ..options(SaveDtype::BF16) };
        save_checkpoint(target, &json!({ "model_type": "llama" }), tensors, &options)
    };
    save(&target, &matrices).unwrap();
    let saved = Checkpoint::open(&target).unwrap();
    assert_eq!(saved.names().collect::<Vec<_>>(), ["0.weight", "1.weight", "norm.weight"]);
    assert_eq!(saved.info("norm.weight").unwrap().dtype, Dtype::BF16);
    for (index, (shape, values)) in matrices.iter().enumerate() {
        let name = format!("{index}.weight");
        assert_eq!(saved.info(&name).unwrap().dtype, Dtype::Nf4);
        assert_eq!(saved.info(&name).unwrap().shape, shape);
        let mut expected = vec![0.0; values.len()];
        Nf4::encode(values).unwrap().decode(&mut expected);
        assert_eq!(saved.load_f32(&name).unwrap(), expected);
    }
    // 63 values: 32 bytes of codes, and a scale with its own.
    assert_eq!(saved.info("1.weight").unwrap().bytes, 32 + 1 + 4);

    let error = save(&dir.path().join("other"), &[([1, 2], vec![1.0, f32::NAN])]).unwrap_err().to_string();
    assert!(error.contains("tensor 0.weight: value 1 is not a finite number"), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("model");
    let save = |value: f32| {
        save_checkpoint(&target, &json!({}), [TensorToSave::new("a", &[1], vec![value])], &options(SaveDtype::F32))
    };
    // A folder with other files is used as it is.
    fs::create_dir(&target).unwrap();
    fs::write(target.join("tokenizer.json"), "{}").unwrap();
    save(1.0).unwrap();
    assert_eq!(files(&target), ["config.json", "model.safetensors", "tokenizer.json"]);
    let error = save(2.0).unwrap_err();
    assert!(matches!(&error, WeightsError::Exists { .. }), "{error}");
    assert_eq!(Checkpoint::open(&target).unwrap().load_f32("a").unwrap(), [1.0]);
    // Old shards would be mixed up with new ones.
    fs::remove_file(target.join("model.safetensors")).unwrap();
    fs::remove_file(target.join("config.json")).unwrap();
    fs::write(target.join("model-00001-of-00002.safetensors"), "x").unwrap();
    assert!(matches!(save(3.0).unwrap_err(), WeightsError::Exists { .. }));
}

#[test]
fn a_failed_save_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("model");
    let sound = || TensorToSave::new("a", &[2], vec![1.0, 2.0]);
    let save = |second| save_checkpoint(&target, &json!({}), [sound(), second], &options(SaveDtype::BF16));

    let error = save(TensorToSave::new("b", &[3], vec![1.0])).unwrap_err();
    assert!(matches!(error, WeightsError::WrongSize { expected: 3, values: 1, .. }));
    let failing = TensorToSave::deferred("b", &[1], || Err(WeightsError::OutOfMemory { name: "b".into(), bytes: 4 }));
    assert!(matches!(save(failing).unwrap_err(), WeightsError::OutOfMemory { .. }));
    assert!(matches!(save(sound()).unwrap_err(), WeightsError::SavedTwice { .. }));
    assert_eq!(files(dir.path()), [""; 0]);
}
