//! Models whose matrices stay packed: the checkpoint that bitsandbytes wrote, and a packed base under adapters.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use grades_models::ops::{Layout, Precision};
use grades_models::parameters::{Place, Storage};
use grades_models::weights::{Checkpoint, Dtype};
use grades_models::{Decoder, LoraConfig, Tokens, host, registry};

use crate::families::{Batch, Values, assert_close, fixtures};

fn folder() -> PathBuf {
    fixtures().join("nf4/llama")
}

fn open(folder: PathBuf, storage: Storage) -> Decoder {
    let device = Device::default().autodiff();
    registry::open_as(&Checkpoint::open(folder).unwrap(), &device, storage).unwrap()
}

fn logits(model: &Decoder, expected: &Values) -> Vec<f32> {
    let ids: Vec<u32> = expected.get("input_ids").iter().map(|&id| id as u32).collect();
    let layout = Arc::new(Layout::packed(std::slice::from_ref(&(0..ids.len()))));
    host::read("logits", &model.logits(&Tokens { ids: Arc::new(ids), layout }), <[f32]>::to_vec).unwrap()
}

#[test]
fn the_checkpoint_of_bitsandbytes_is_read_as_it_is() {
    let checkpoint = Checkpoint::open(folder()).unwrap();
    assert_eq!(checkpoint.quantized_types(), [Dtype::Nf4]);
    assert_eq!(checkpoint.names().count(), 1 + 2 * 9 + 1);
    let expected = Values::read(&folder().join("expected.safetensors"));
    let mut matrices = 0;
    for name in checkpoint.names() {
        let info = checkpoint.info(name).unwrap();
        if info.dtype != Dtype::Nf4 {
            continue;
        }
        matrices += 1;
        let decoded: Vec<f32> = expected.get(&format!("decoded.{name}")).iter().map(|&value| value as f32).collect();
        assert!(checkpoint.load_f32(name).unwrap() == decoded, "{name}");
        let packed = checkpoint.packed(name).unwrap();
        assert_eq!([packed.rows(), packed.columns()], info.shape[..]);
        // The file has no room for what is taken off the scales, four bytes: that is in its JSON.
        assert_eq!(packed.bytes() as u64, info.bytes + 4);
        let mut found = vec![f32::NAN; decoded.len()];
        packed.decode(&mut found);
        assert!(found == decoded, "{name}");
    }
    assert_eq!(matrices, 14);
    for storage in [Storage::Dense, Storage::Packed] {
        let model = open(folder(), storage);
        assert_close(&format!("logits, {storage:?}"), &logits(&model, &expected), expected.get("logits"));
        let packed = model.parameters().iter().filter(|parameter| parameter.packed.is_some()).count();
        assert_eq!(packed, if storage == Storage::Packed { 14 } else { 0 });
    }
}

#[test]
fn a_dense_checkpoint_is_quantised_as_bitsandbytes_does_it() {
    let expected = Values::read(&folder().join("expected.safetensors"));
    let model = open(fixtures().join("llama"), Storage::Packed);
    assert_close("logits", &logits(&model, &expected), expected.get("logits"));
    let dense = logits(&open(fixtures().join("llama"), Storage::Dense), &expected);
    assert!(dense.iter().zip(expected.get("logits")).any(|(dense, packed)| (f64::from(*dense) - packed).abs() > 0.1));
    // Embedding and norms stay what they are.
    for parameter in model.parameters().iter() {
        assert_eq!(parameter.packed.is_some(), matches!(parameter.place, Place::Unit(_)), "{}", parameter.name);
    }
}

/// Loss and gradients of the adapters on a base, packed or decoded from it.
fn adapted(packed: bool, use_dora: bool, precision: Precision) -> (f32, Vec<Vec<f32>>) {
    let base = open(fixtures().join("llama"), Storage::Packed);
    // Merging nothing decodes all.
    let base = if packed { base } else { base.merged().unwrap() };
    assert_eq!(base.parameters().iter().any(|parameter| parameter.packed.is_some()), packed);
    let config = LoraConfig { r: 4, use_dora, ..LoraConfig::default() };
    let mut model = base.with_adapter(config, &LoraConfig::initial(1)).unwrap();
    model.set_precision(precision);
    model.parameters_mut().train();
    // B is zero at first, and A without a gradient.
    for parameter in model.parameters_mut().iter_mut().filter(|p| p.name.ends_with("lora_B.weight")) {
        host::update("B", &mut parameter.value, |values| {
            values.iter_mut().enumerate().for_each(|(i, value)| *value = 0.1 * (i as f32).sin());
        })
        .unwrap();
    }
    let batch = Batch::new(&Values::read(&fixtures().join("llama/expected.safetensors")));
    let loss = model.loss(&batch.tokens, batch.targets.clone(), batch.scale());
    let mut found = loss.backward();
    let value = host::read("loss", &loss, |loss| loss[0]).unwrap();
    let trained = model.parameters().iter().filter(|parameter| parameter.is_trainable());
    let gradients = trained.map(|parameter| {
        let gradient = parameter.value.grad_remove(&mut found).unwrap();
        host::read(&parameter.name, &gradient, <[f32]>::to_vec).unwrap()
    });
    (value, gradients.collect())
}

#[test]
fn adapters_have_the_gradients_that_they_have_on_the_decoded_base() {
    for (use_dora, count) in [(false, 2), (true, 3)] {
        let f32 = |packed| adapted(packed, use_dora, Precision::F32);
        let (found, expected) = (f32(true), f32(false));
        assert_eq!(found.1.len(), 14 * count);
        assert!((found.0 - expected.0).abs() < 1e-5);
        for (index, (found, expected)) in found.1.iter().zip(&expected.1).enumerate() {
            let expected: Vec<f64> = expected.iter().map(|&value| f64::from(value)).collect();
            assert!(expected.iter().any(|value| *value != 0.0));
            assert_close(&format!("gradient {index}, DoRA {use_dora}"), found, &expected);
        }
        // In bf16 the same numbers go into every product with a weight.
        let bf16 = |packed| adapted(packed, use_dora, Precision::Bf16);
        let (found, expected) = (bf16(true), bf16(false));
        assert!((found.0 - expected.0).abs() < 1e-4);
        assert!(use_dora || found == expected);
    }
}

#[test]
fn a_merged_packed_base_computes_what_the_adapter_did() {
    let expected = Values::read(&folder().join("expected.safetensors"));
    let config = LoraConfig {
        r: 2,
        lora_alpha: 16.0,
        target_modules: vec!["q_proj".into(), "down_proj".into()],
        ..LoraConfig::default()
    };
    let mut model = open(folder(), Storage::Packed).with_adapter(config, &LoraConfig::initial(1)).unwrap();
    for parameter in model.parameters_mut().iter_mut().filter(|p| p.name.ends_with("lora_B.weight")) {
        host::update("B", &mut parameter.value, |values| values.fill(0.2)).unwrap();
    }
    let beside: Vec<f64> = logits(&model, &expected).into_iter().map(f64::from).collect();
    let merged = model.merged().unwrap();
    assert!(merged.parameters().iter().all(|parameter| parameter.packed.is_none()));
    let found = logits(&merged, &expected);
    assert_close("logits", &found, &beside);
    assert!(found.iter().zip(expected.get("logits")).any(|(found, base)| (f64::from(*found) - base).abs() > 0.1));
}
