//! Matrices in blocks: GGUF's as they are, dense ones in NF4, and what bitsandbytes wrote with something wrong about it.

use std::fs;
use std::path::Path;

use ::safetensors::SafeTensors;
use ::safetensors::tensor::Dtype as Stored;
use grades_kernels::quant::{GgufType, Nf4, PackedMatrix, dynamic_map};
use serde_json::json;
use tempfile::TempDir;

use super::{fixture, le_bytes, open_error, values, write_safetensors};
use crate::weights::Checkpoint;
use crate::weights::gguf::testing::GgufBuilder;

fn decoded(packed: &PackedMatrix) -> Vec<f32> {
    let mut values = vec![f32::NAN; packed.rows() * packed.columns()];
    packed.decode(&mut values);
    values
}

#[test]
fn blocks_of_a_gguf_file_stay_as_they_are_in_the_rows_of_hugging_face() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let mut file = GgufBuilder::default().architecture("llama", 256, 4, 2);
    file = file.f32_tensor("token_embd.weight", &[3, 256], &values(3 * 256, 1));
    let kinds = [("attn_q", 256, GgufType::Q4_K), ("attn_k", 128, GgufType::Q8_0), ("attn_v", 128, GgufType::Q6_K)];
    for (name, rows, kind) in kinds {
        let bytes: Vec<u8> = (0..kind.bytes_of(rows * 256).unwrap())
            .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 0x3b)
            .collect();
        file = file.tensor(&format!("blk.0.{name}.weight"), &[rows, 256], kind.id(), &bytes);
    }
    file = file.f32_tensor("blk.1.attn_k.weight", &[128, 256], &values(128 * 256, 2));
    file.write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    for (layer, name, bytes) in [
        (0, "q", GgufType::Q4_K.bytes_of(256 * 256).unwrap()),
        (0, "k", GgufType::Q8_0.bytes_of(128 * 256).unwrap()),
        (0, "v", GgufType::Q6_K.bytes_of(128 * 256).unwrap()),
    ] {
        let name = format!("model.layers.{layer}.self_attn.{name}_proj.weight");
        let packed = checkpoint.packed(&name).unwrap();
        assert_eq!(packed.bytes(), bytes, "{name}");
        assert_eq!(decoded(&packed), checkpoint.load_f32(&name).unwrap(), "{name}");
    }
    let name = "model.layers.1.self_attn.k_proj.weight";
    let values = Nf4::encode(&checkpoint.load_f32(name).unwrap()).unwrap();
    assert_eq!(checkpoint.packed(name).unwrap(), PackedMatrix::nf4(values, 128, 256).unwrap());
}

#[test]
fn a_dense_matrix_is_encoded_in_pieces_as_in_one() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    // More than two reads, and a last block that is not full.
    let (rows, columns) = (1201, 451);
    let mut numbers = values(rows * columns, 1);
    let write = |numbers: &[f32]| {
        let vector: &[usize] = &[rows * columns];
        let bytes = le_bytes(numbers);
        write_safetensors(&path, &[("m", Stored::F32, &[rows, columns], &bytes), ("v", Stored::F32, vector, &bytes)]);
        Checkpoint::open(&path).unwrap()
    };
    let packed = write(&numbers).packed("m").unwrap();
    assert_eq!(packed, PackedMatrix::nf4(Nf4::encode(&numbers).unwrap(), rows, columns).unwrap());
    let error = write(&numbers).packed("v").unwrap_err().to_string();
    assert!(error.contains("tensor v") && error.contains("not that of a matrix"), "{error}");
    numbers[540_000] = f32::NAN;
    let error = write(&numbers).packed("m").unwrap_err().to_string();
    assert!(error.contains("tensor m") && error.contains("540000"), "{error}");
}

type Tensor = (String, Stored, Vec<usize>, Vec<u8>);

/// The checkpoint of bitsandbytes with its tensors and its config changed.
fn changed(change: impl Fn(&mut Vec<Tensor>, &mut serde_json::Value)) -> TempDir {
    let (dir, from) = (TempDir::new().unwrap(), fixture("nf4/llama"));
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Tensor> = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    let mut config = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut tensors, &mut config);
    let parts: Vec<(&str, Stored, &[usize], &[u8])> =
        tensors.iter().map(|(name, dtype, shape, bytes)| (name.as_str(), *dtype, &shape[..], &bytes[..])).collect();
    write_safetensors(&dir.path().join("model.safetensors"), &parts);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

#[track_caller]
fn refused(path: &Path, parts: &[&str]) {
    let error = open_error(path);
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
}

const WEIGHT: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn a_quantised_tensor_with_a_wrong_part_is_told_with_its_name() {
    let named = |part: &str| format!("{WEIGHT}{part}");
    let shorten = |part: &'static str, by: usize| {
        changed(move |tensors, _| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == named(part)).unwrap();
            let unit = if tensor.1 == Stored::F32 { 4 } else { 1 };
            tensor.2 = vec![tensor.3.len() / unit - by];
            tensor.3.truncate(tensor.2[0] * unit);
        })
    };
    refused(shorten("", 32).path(), &["model.safetensors", WEIGHT, "736 bytes of codes", "takes 768"]);
    refused(shorten(".absmax", 1).path(), &[WEIGHT, "23 bytes of scales in absmax", "[48, 32]", "takes 24"]);
    refused(shorten(".quant_map", 1).path(), &[WEIGHT, "table of codes"]);
    for part in [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"] {
        let without = changed(|tensors, _| tensors.retain(|tensor| tensor.0 != named(part)));
        refused(without.path(), &[WEIGHT, "is quantised", &named(part), "is missing"]);
    }
    let state = ".quant_state.bitsandbytes__nf4";
    let without = changed(|tensors, _| tensors.retain(|tensor| tensor.0 != named(state)));
    refused(without.path(), &[WEIGHT, &named(state)]);
    let with_state = |key: &str, value: serde_json::Value| {
        changed(move |tensors, _| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == named(state)).unwrap();
            let mut json: serde_json::Value = serde_json::from_slice(&tensor.3).unwrap();
            json[key] = value.clone();
            tensor.3 = json.to_string().into_bytes();
            tensor.2 = vec![tensor.3.len()];
        })
    };
    refused(with_state("blocksize", json!(128)).path(), &[WEIGHT, "blocks of 128", "blocks of 64"]);
    refused(with_state("nested_blocksize", json!(128)).path(), &[WEIGHT, "blocks of 128", "256"]);
    refused(with_state("shape", json!([48, 33])).path(), &[WEIGHT, "[48, 33]"]);
    refused(with_state("shape", json!([1_u64 << 40, 1_u64 << 40])).path(), &[WEIGHT, "impossible"]);
    refused(with_state("shape", json!("wide")).path(), &[WEIGHT, "does not parse"]);
}

#[test]
fn scales_may_be_stored_as_they_are() {
    // As bitsandbytes writes them without double quantisation: `absmax` in F32, and no nested parts.
    let named = |part: &str| format!("{WEIGHT}{part}");
    let original = Checkpoint::open(fixture("nf4/llama")).unwrap();
    let plain = changed(|tensors, _| {
        let bytes =
            |tensors: &[Tensor], part: &str| tensors.iter().find(|tensor| tensor.0 == named(part)).unwrap().3.clone();
        let state = ".quant_state.bitsandbytes__nf4";
        let mut json: serde_json::Value = serde_json::from_slice(&bytes(tensors, state)).unwrap();
        let offset = json["nested_offset"].as_f64().unwrap() as f32;
        let nested = f32::from_le_bytes(bytes(tensors, ".nested_absmax").try_into().unwrap());
        let scale = |code: &u8| dynamic_map()[usize::from(*code)] * nested + offset;
        let scales: Vec<f32> = bytes(tensors, ".absmax").iter().map(scale).collect();
        for key in ["nested_blocksize", "nested_dtype", "nested_offset"] {
            json.as_object_mut().unwrap().shift_remove(key);
        }
        tensors.retain(|tensor| ![named(".nested_absmax"), named(".nested_quant_map")].contains(&tensor.0));
        for tensor in tensors {
            if tensor.0 == named(".absmax") {
                (tensor.1, tensor.3) = (Stored::F32, le_bytes(&scales));
            } else if tensor.0 == named(state) {
                tensor.3 = json.to_string().into_bytes();
                tensor.2 = vec![tensor.3.len()];
            }
        }
    });
    let plain = Checkpoint::open(plain.path()).unwrap();
    assert_eq!(plain.load_f32(WEIGHT).unwrap(), original.load_f32(WEIGHT).unwrap());
    // 24 blocks: three bytes more for each scale, and no scale of them.
    assert_eq!(plain.info(WEIGHT).unwrap().bytes, original.info(WEIGHT).unwrap().bytes + 24 * 3 - 4);
    assert_eq!(decoded(&plain.packed(WEIGHT).unwrap()), original.load_f32(WEIGHT).unwrap());
}

#[test]
fn other_quantisations_are_refused_with_what_is_known() {
    let config = |change: fn(&mut serde_json::Value)| changed(|_, config| change(&mut config["quantization_config"]));
    let known = "nf4 of bitsandbytes and GGUF";
    refused(config(|q| q["bnb_4bit_quant_type"] = json!("fp4")).path(), &["fp4 of bitsandbytes", known]);
    refused(config(|q| q["load_in_8bit"] = json!(true)).path(), &["int8 of bitsandbytes", known]);
    refused(config(|q| q["quant_method"] = json!("gptq")).path(), &["quantised by gptq", known]);
    let renamed = changed(|tensors, _| {
        for tensor in tensors {
            tensor.0 = tensor.0.replace("bitsandbytes__nf4", "bitsandbytes__fp4");
        }
    });
    refused(renamed.path(), &["is in fp4", known]);
}
