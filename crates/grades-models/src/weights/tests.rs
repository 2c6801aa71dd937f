//! Checkpoints written by the tests themselves and the fixtures of the reference implementation.

mod corruption;
mod gguf;
mod packed;
mod saving;

use std::fs;
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Dtype as Stored, TensorView};
use half::{bf16, f16};
use serde_json::json;
use tempfile::TempDir;

use super::{Checkpoint, Dtype, WeightsError};

/// A file or folder of the reference fixtures.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Pseudo-random values that no format can represent by accident of being round.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write_safetensors(path: &Path, tensors: &[(&str, Stored, &[usize], &[u8])]) {
    let views =
        tensors.iter().map(|&(name, dtype, shape, bytes)| (name, TensorView::new(dtype, shape.to_vec(), bytes)));
    let views = views.map(|(name, view)| (name, view.unwrap()));
    fs::write(path, ::safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The message of the error that opening `path` gives.
fn open_error(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

#[test]
fn a_folder_of_the_reference_loads_as_the_safetensors_library_reads_it() {
    let folder = fixture("llama");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(checkpoint.config().unwrap()["model_type"], "llama");
    assert_eq!(checkpoint.names().count(), reference.len());
    for (name, view) in reference.iter() {
        assert_eq!(checkpoint.info(name).unwrap().shape, view.shape(), "{name}");
        assert_eq!(checkpoint.info(name).unwrap().dtype, Dtype::F32, "{name}");
        assert_eq!(le_bytes(&checkpoint.load_f32(name).unwrap()), view.data(), "{name}");
        assert_eq!(checkpoint.raw(name).unwrap(), view.data(), "{name}");
    }
}

#[test]
fn every_float_type_of_safetensors_decodes_and_integers_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    let numbers = values(6, 1);
    let doubles: Vec<u8> = numbers.iter().flat_map(|&v| (f64::from(v) + 1e-12).to_le_bytes()).collect();
    let halves: Vec<u8> = numbers.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let brains: Vec<u8> = numbers.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    write_safetensors(
        &path,
        &[
            ("f64", Stored::F64, &[2, 3], &doubles),
            ("f16", Stored::F16, &[2, 3], &halves),
            ("bf16", Stored::BF16, &[6], &brains),
            ("ids", Stored::I64, &[1], &7_i64.to_le_bytes()),
        ],
    );
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.load_f32("f64").unwrap(), numbers);
    let expected: Vec<f32> = numbers.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
    assert_eq!(checkpoint.load_f32("f16").unwrap(), expected);
    let expected: Vec<f32> = numbers.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    assert_eq!(checkpoint.load_f32("bf16").unwrap(), expected);

    let error = checkpoint.load_f32("ids").unwrap_err();
    assert!(
        matches!(&error, WeightsError::NotFloat { name, dtype: Dtype::Other("I64"), .. } if name == "ids"),
        "{error}"
    );
    assert_eq!(checkpoint.raw("ids").unwrap(), 7_i64.to_le_bytes());
    assert!(matches!(checkpoint.load_f32("absent").unwrap_err(), WeightsError::MissingTensor { .. }));
    // There is no config beside the file.
    assert!(checkpoint.config().unwrap_err().to_string().contains("config.json"));
}

#[test]
fn a_tensor_longer_than_one_read_is_whole() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    let numbers = values(super::load::VALUES_PER_READ * 2 + 5, 2);
    write_safetensors(&path, &[("long", Stored::F32, &[numbers.len()], &le_bytes(&numbers))]);
    assert_eq!(Checkpoint::open(&path).unwrap().load_f32("long").unwrap(), numbers);
}

#[test]
fn an_empty_tensor_loads() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    write_safetensors(&path, &[("empty", Stored::F32, &[0, 4], &[])]);
    assert!(Checkpoint::open(&path).unwrap().load_f32("empty").unwrap().is_empty());
}

#[test]
fn what_is_no_checkpoint_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    assert!(open_error(&path.join("absent")).contains("absent"));
    assert!(open_error(path).contains("holds no model.safetensors"));
    fs::write(path.join("adapter_config.json"), "{}").unwrap();
    assert!(open_error(path).contains("holds an adapter; give the model"));
    fs::write(path.join("weights.bin"), "x").unwrap();
    assert!(open_error(&path.join("weights.bin")).contains(".gguf"));
    fs::write(path.join("a.gguf"), "x").unwrap();
    fs::write(path.join("b.gguf"), "x").unwrap();
    assert!(open_error(path).contains("2 .gguf files"));
}

#[test]
fn a_damaged_safetensors_header_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    write_safetensors(&path, &[("w", Stored::F32, &[4], &le_bytes(&values(4, 3)))]);
    let sound = fs::read(&path).unwrap();
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        open_error(&path)
    };
    assert!(error(&sound[..5]).contains("5 bytes"));
    assert!(error(&sound[..sound.len() - 1]).contains("15 follow"));
    assert!(error(&[&sound[..], &[0]].concat()).contains("17 follow"));
    let mut lying = sound.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(error(&lying).contains("header of 18446744073709551615 bytes"));
    let mut not_json = sound.clone();
    not_json[8] = b'!';
    assert!(error(&not_json).contains("does not parse"));
    // A shape whose product overflows, with offsets that would fit the file.
    let header = br#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}"#;
    let lying = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat();
    assert!(error(&lying).contains("does not parse"));
}

/// Two shards with an index, of tensors `a` and `b`.
fn sharded(dir: &Path, weight_map: serde_json::Value) {
    let bytes = le_bytes(&values(4, 4));
    write_safetensors(&dir.join("one.safetensors"), &[("a", Stored::F32, &[4], &bytes)]);
    write_safetensors(&dir.join("two.safetensors"), &[("b", Stored::F32, &[2, 2], &bytes)]);
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_load_as_one() {
    let dir = TempDir::new().unwrap();
    sharded(dir.path(), json!({ "a": "one.safetensors", "b": "two.safetensors" }));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.load_f32("a").unwrap(), values(4, 4));
    assert_eq!(checkpoint.load_f32("b").unwrap(), values(4, 4));
}

#[test]
fn a_wrong_index_is_named() {
    let dir = TempDir::new().unwrap();
    let error = |weight_map| {
        sharded(dir.path(), weight_map);
        open_error(dir.path())
    };
    assert!(error(json!({ "a": "one.safetensors", "b": "three.safetensors" })).contains("three.safetensors"));
    assert!(error(json!({ "a": "one.safetensors", "c": "two.safetensors" })).contains("tensor c"));
    assert!(error(json!({ "a": "../one.safetensors" })).contains("for a"));
    assert!(error(json!({ "a": 3 })).contains("for a"));
    assert!(error(json!("none")).contains("weight_map"));

    let bytes = le_bytes(&values(4, 4));
    sharded(dir.path(), json!({ "a": "one.safetensors", "b": "two.safetensors" }));
    let twice = [("a", Stored::F32, &[4][..], &bytes[..]), ("b", Stored::F32, &[4], &bytes)];
    write_safetensors(&dir.path().join("two.safetensors"), &twice);
    assert!(open_error(dir.path()).contains("tensor a occurs twice"));
}
