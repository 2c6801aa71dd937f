//! Models whose matrices stay packed: the checkpoint that bitsandbytes wrote, and a packed base under adapters.

use std::path::Path;
use std::sync::Arc;

use grades_models::model::PassOptions;
use grades_models::parameters::Parameter;
use grades_models::source::{LoadOptions, Storage};
use grades_models::weights::{Checkpoint, Dtype as Stored};
use grades_models::{Decoder, Inputs, LoraConfig, registry};
use grades_tensor::{Dtype, Layout};

use crate::fixture::{
    Batch, Values, assert_close, cpu, find, find_each, gradient, held, in_f64, relative_error, written,
};

/// What bitsandbytes made of the fixture `llama`.
const NF4: &str = "nf4/llama";
/// Matrices of a layer, and its norms.
const MATRICES: usize = 7;
const NORMS: usize = 2;

fn open(folder: &Path, storage: Storage) -> Decoder {
    let options = LoadOptions { storage, ..LoadOptions::new(cpu()) };
    registry::open(&Checkpoint::open(folder).unwrap(), options).unwrap()
}

fn logits(model: &Decoder, expected: &Values) -> Vec<f32> {
    let ids: Vec<u32> = expected.get("input_ids").iter().map(|&id| id as u32).collect();
    let layout = Arc::new(Layout::packed(std::slice::from_ref(&(0..ids.len()))));
    model.logits(&Inputs::tokens(Arc::new(ids), layout)).to_host().into_owned()
}

/// Puts values of their index into every B.
pub(crate) fn fill_b(model: &mut Decoder, value: impl Fn(usize) -> f32) {
    for parameter in model.parameters_mut().iter_mut().filter(|parameter| parameter.is_lora_b()) {
        let values: Vec<f32> = (0..parameter.len()).map(&value).collect();
        let (device, shape) = (parameter.value.device(), parameter.value.shape());
        parameter.value = device.from_host(values, shape);
    }
}

#[test]
fn the_checkpoint_of_bitsandbytes_is_read_as_it_is() {
    let Some(folder) = find(NF4) else { return };
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let layers = open(&folder, Storage::Dense).sizes().num_hidden_layers;
    assert_eq!(checkpoint.quantized_types(), [Stored::Nf4]);
    assert_eq!(checkpoint.names().count(), 1 + layers * (MATRICES + NORMS) + 1);
    let expected = Values::expected(&folder);
    let mut matrices = 0;
    for name in checkpoint.names() {
        let info = checkpoint.info(name).unwrap();
        if info.dtype != Stored::Nf4 {
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
    assert_eq!(matrices, layers * MATRICES);
    for storage in [Storage::Dense, Storage::Packed] {
        let model = open(&folder, storage);
        assert_close(&format!("logits, {storage:?}"), &logits(&model, &expected), expected.get("logits"));
        let packed = model.parameters().iter().filter(|parameter| parameter.is_packed()).count();
        assert_eq!(packed, if storage == Storage::Packed { matrices } else { 0 });
    }
}

#[test]
fn a_dense_checkpoint_is_quantised_as_bitsandbytes_does_it() {
    let (Some(folder), Some(quantised)) = (find("llama"), find(NF4)) else { return };
    let expected = Values::expected(&quantised);
    let model = open(&folder, Storage::Packed);
    assert_close("logits", &logits(&model, &expected), expected.get("logits"));
    let dense = logits(&open(&folder, Storage::Dense), &expected);
    assert!(relative_error(&dense, expected.get("logits")) > 0.01);
    // Embedding and norms stay what they are.
    for parameter in model.parameters().iter() {
        let unit = parameter.pieces().iter().all(|piece| piece.place.unit().is_some());
        assert_eq!(parameter.is_packed(), unit, "{}", parameter.name);
    }
}

/// Loss and gradients of the adapters on a base, packed or decoded from it.
fn adapted(folder: &Path, packed: bool, use_dora: bool, dtype: Dtype) -> (f32, Vec<Vec<f32>>) {
    let base = open(folder, Storage::Packed);
    // Merging nothing decodes all.
    let base = if packed { base } else { base.merged() };
    assert_eq!(base.parameters().iter().any(Parameter::is_packed), packed);
    let config = LoraConfig { r: 4, use_dora, ..LoraConfig::default() };
    let mut model = base.with_adapter(config, &LoraConfig::initial(1)).unwrap();
    model.set_dtype(dtype);
    model.parameters_mut().train();
    // B is zero at first, and A without a gradient.
    fill_b(&mut model, |i| 0.1 * (i as f32).sin());
    let batch = Batch::new(&model, &Values::expected(folder));
    let (loss, found) = batch.pass(&model, PassOptions::default());
    let trained = model.parameters().iter().filter(|parameter| parameter.is_trainable());
    (loss, trained.map(|parameter| gradient(parameter, &found).unwrap()).collect())
}

#[test]
fn adapters_have_the_gradients_that_they_have_on_the_decoded_base() {
    for (family, folder) in find_each(&["llama", "phi3"]) {
        check_adapters(family, &folder);
    }
}

fn check_adapters(family: &str, folder: &Path) {
    let base = open(folder, Storage::Packed);
    let matrices = base.parameters().iter().filter(|parameter| parameter.is_packed()).count();
    for (use_dora, count) in [(false, 2), (true, 3)] {
        let f32 = |packed| adapted(folder, packed, use_dora, Dtype::F32);
        let (found, expected) = (f32(true), f32(false));
        assert_eq!(found.1.len(), matrices * count);
        assert!((found.0 - expected.0).abs() < 1e-5);
        for (index, (found, expected)) in found.1.iter().zip(&expected.1).enumerate() {
            assert!(expected.iter().any(|value| *value != 0.0));
            assert_close(&format!("{family}: gradient {index}, DoRA {use_dora}"), found, &in_f64(expected));
        }
        // In bf16 the same numbers go into every product with a weight.
        let bf16 = |packed| adapted(folder, packed, use_dora, Dtype::Bf16);
        let (found, expected) = (bf16(true), bf16(false));
        assert!((found.0 - expected.0).abs() < 1e-4);
        assert!(use_dora || found == expected);
    }
}

#[test]
fn a_merged_packed_base_computes_what_the_adapter_did() {
    let Some(folder) = find(NF4) else { return };
    let expected = Values::expected(&folder);
    let config = LoraConfig {
        r: 2,
        lora_alpha: 16.0,
        target_modules: vec!["q_proj".into(), "down_proj".into()],
        ..LoraConfig::default()
    };
    let mut model = open(&folder, Storage::Packed).with_adapter(config, &LoraConfig::initial(1)).unwrap();
    fill_b(&mut model, |_| 0.2);
    let beside = in_f64(&logits(&model, &expected));
    let beside_base = written(&model);
    let merged = model.merged();
    assert!(!merged.parameters().iter().any(Parameter::is_packed));
    assert!(beside_base == held(&merged));
    let found = logits(&merged, &expected);
    assert_close("logits", &found, &beside);
    assert!(relative_error(&found, expected.get("logits")) > 0.01);
}
