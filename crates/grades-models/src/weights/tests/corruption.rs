//! Bytes changed or cut off at random: an error or other values, never a panic.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{le_bytes, values};
use crate::tokenizer::Tokenizer;
use crate::weights::gguf::testing::GgufBuilder;
use crate::weights::{Checkpoint, SaveDtype, SaveOptions, TensorToSave, save_checkpoint};

/// A small file with every kind of metadata and some kinds of tensors.
fn gguf() -> Vec<u8> {
    GgufBuilder::default()
        .architecture("llama", 32, 4, 2)
        .bool("tokenizer.ggml.add_bos_token", true)
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "▁", "a", "▁a", "<0x0A>"])
        .f32s("tokenizer.ggml.scores", &[0.0, 0.0, -1.0, -2.0, -3.0, 0.0])
        .i32s("tokenizer.ggml.token_type", &[2, 3, 1, 1, 1, 6])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .f32_tensor("token_embd.weight", &[6, 32], &values(192, 9))
        .tensor("blk.0.attn_q.weight", &[8, 32], 8, &[0x3C; 8 * 34])
        .tensor("blk.0.ffn_down.weight", &[2, 256], 14, &[0x2A; 2 * 210])
        .bytes()
}

fn safetensors() -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let numbers = values(24, 10);
    let tensors = vec![TensorToSave::new("a", &[4, 4], &numbers[..16]), TensorToSave::new("b", &[8], &numbers[16..])];
    let options = SaveOptions { dtype: SaveDtype::F16, ..SaveOptions::default() };
    save_checkpoint(&dir.path().join("m"), &serde_json::json!({}), tensors, &options).unwrap();
    fs::read(dir.path().join("m/model.safetensors")).unwrap()
}

/// Opens and reads all that opens.
fn read_all(file: &str, bytes: &[u8]) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(file);
    fs::write(&path, bytes).unwrap();
    match Checkpoint::open(&path) {
        Ok(checkpoint) => {
            for name in checkpoint.names() {
                let values = checkpoint.load_f32(name).map(|values| values.len());
                let expected = checkpoint.info(name).unwrap().values();
                assert!(values.is_err() || values.is_ok_and(|count| count == expected));
                let _ = checkpoint.raw(name);
            }
        }
        Err(error) => assert!(error.to_string().contains(file), "{error}"),
    }
    if file.ends_with("gguf")
        && let Ok(tokenizer) = Tokenizer::from_checkpoint(&path)
        && let Ok(ids) = tokenizer.encode("a \n aa", true)
    {
        let _ = tokenizer.decode(&ids, true);
    }
}

fn damage(sound: &[u8], changes: &[(usize, u8)], keep: usize) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for &(position, value) in changes {
        let position = position % bytes.len();
        bytes[position] = value;
    }
    bytes.truncate(keep);
    bytes
}

#[test]
fn the_undamaged_files_open() {
    let dir = TempDir::new().unwrap();
    for (file, bytes) in [("m.gguf", gguf()), ("m.safetensors", safetensors())] {
        fs::write(dir.path().join(file), bytes).unwrap();
        assert!(Checkpoint::open(dir.path().join(file)).unwrap().names().count() >= 2);
    }
    let tokenizer = Tokenizer::from_checkpoint(dir.path().join("m.gguf")).unwrap();
    assert_eq!(tokenizer.encode("a a\n", true).unwrap(), [1, 4, 4, 5]);
}

#[test]
fn every_truncation_is_an_error() {
    for (file, bytes) in [("m.gguf", gguf()), ("m.safetensors", safetensors())] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(file);
        // The padding behind the last tensor of a GGUF file may be missing.
        let needed = if file == "m.gguf" { bytes.len() - 32 } else { bytes.len() - 1 };
        for length in (0..=needed).step_by(7) {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(Checkpoint::open(&path).is_err(), "{file} of {length} bytes");
        }
    }
}

#[test]
fn length_fields_of_any_size_are_bounded() {
    // Every 8 bytes of the header in turn claim to be a huge number.
    for (file, bytes) in [("m.gguf", gguf()), ("m.safetensors", safetensors())] {
        for at in 0..bytes.len().min(1100) - 8 {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&(u64::MAX >> (at % 3 * 16)).to_le_bytes());
            read_all(file, &bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_gguf_never_panics(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..12),
        keep in 0_usize..4096,
    ) {
        let sound = gguf();
        read_all("m.gguf", &damage(&sound, &changes, if keep % 2 == 0 { sound.len() } else { keep }));
    }

    #[test]
    fn damaged_safetensors_never_panics(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        keep in 0_usize..400,
    ) {
        let sound = safetensors();
        read_all("m.safetensors", &damage(&sound, &changes, if keep % 2 == 0 { sound.len() } else { keep }));
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), header in any::<bool>()) {
        let start: &[u8] = if header { b"GGUF\x03\0\0\0" } else { b"" };
        read_all("m.gguf", &[start, &bytes].concat());
        read_all("m.safetensors", &[&le_bytes(&[0.0, 0.0])[..], &bytes].concat());
    }
}
