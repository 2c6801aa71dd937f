//! Models of which parts that do not train stay in bf16: to the bit what the same values in f32 compute.

use std::path::Path;

use grades_models::config::HfConfig;
use grades_models::model::PassOptions;
use grades_models::parameters::{Group, Groups, Parameter};
use grades_models::source::{Form, LoadOptions, Source};
use grades_models::{Decoder, Error, LoraConfig, registry};
use grades_tensor::Dtype;
use half::bf16;

use crate::fixture::{Batch, Values, cpu, find, find_each, gradient, held, json, written};
use crate::packed::fill_b;

const FAMILIES: [&str; 12] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma3_text",
    "mixtral",
    "qwen3_moe",
    "smollm3",
    "nanovlm",
    "qwen2_5_vl",
    "vision/qwen2_5_vl_rows",
];

/// The values of a fixture, rounded to bf16, and whether they are told to be so.
struct Rounded(Values, Form);

impl Source for Rounded {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.0.load(name, shape)?.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect())
    }

    fn form(&self, _: &str) -> Form {
        self.1
    }
}

/// The model of a fixture of which these groups will not train, as a file in bf16 has it or as one in f32.
fn load(folder: &Path, form: Form, fixed: Groups) -> Decoder {
    let config = HfConfig::new(json(&folder.join("config.json"))).unwrap();
    let values = Rounded(Values::read(&folder.join("model.safetensors")), form);
    registry::load(&config, &values, LoadOptions::new(cpu()).fixed(fixed)).unwrap()
}

/// Loss and gradients of all that trains.
fn pass(model: &mut Decoder, folder: &Path, dtype: Dtype) -> (f32, Vec<(String, Vec<f32>)>) {
    model.set_dtype(dtype);
    model.parameters_mut().train();
    let batch = Batch::new(model, &Values::expected(folder));
    let (loss, found) = batch.pass(model, PassOptions::default());
    let trained = model.parameters().iter().filter(|parameter| parameter.is_trainable());
    (loss, trained.map(|parameter| (parameter.name.clone(), gradient(parameter, &found).unwrap())).collect())
}

fn is_half(parameter: &Parameter) -> bool {
    parameter.value.dtype() == Dtype::Bf16
}

#[test]
fn adapters_on_a_base_in_bf16_learn_what_they_learn_on_its_values_in_f32() {
    for (family, folder) in find_each(&FAMILIES) {
        for use_dora in [false, true] {
            let adapted = |form| {
                let base = load(&folder, form, Groups::ALL);
                let bytes: usize = base.parameters().iter().map(Parameter::bytes).sum();
                for parameter in base.parameters().iter() {
                    let expected = form == Form::Half && parameter.shape.len() > 1;
                    assert_eq!(is_half(parameter), expected, "{family}: {}", parameter.name);
                }
                let config = LoraConfig { r: 2, use_dora, ..LoraConfig::default() };
                let mut model = base.with_adapter(config, &LoraConfig::initial(1)).unwrap();
                // B is zero at first, and A without a gradient.
                fill_b(&mut model, |i| 0.1 * (i as f32).sin());
                (model, bytes)
            };
            let ((mut half, halves), (mut whole, all)) = (adapted(Form::Half), adapted(Form::Dense));
            let vectors: usize =
                whole.parameters().iter().filter(|p| p.is_base() && p.shape.len() == 1).map(Parameter::bytes).sum();
            assert_eq!(2 * (halves - vectors), all - vectors, "{family}");
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let (found, expected) = (pass(&mut half, &folder, dtype), pass(&mut whole, &folder, dtype));
                assert!(expected.1.iter().any(|(_, gradient)| gradient.iter().any(|value| *value != 0.0)));
                assert!(found == expected, "{family} in {}, DoRA {use_dora}", dtype.name());
            }
            // Sums with adapters are no numbers of bf16, so what they are added to is f32 from there on.
            let batch = Batch::new(&whole, &Values::expected(&folder));
            let (beside, merged) = (written(&half), whole.merged());
            assert!(beside == held(&merged), "{family}: what is written of it");
            let (mut half, whole) = (half, batch.logits(&merged));
            half.parameters_mut().set_trainable(|_| Some(false));
            half.fold_frozen();
            let beside: usize = half.parameters().iter().filter(|parameter| is_half(parameter)).count();
            assert!(beside > 0 && beside < half.parameters().len(), "the embedding is folded into, or nothing is");
            assert!(batch.logits(&half) == whole, "{family}: folded");
            let merged = half.merged();
            assert!(!merged.parameters().iter().any(is_half));
            assert!(batch.logits(&merged) == whole, "{family}: merged");
        }
    }
}

#[test]
fn a_tower_that_is_held_stays_in_bf16_while_the_rest_trains() {
    for (family, folder) in find_each(&["nanovlm", "qwen2_5_vl"]) {
        for held in [&[Group::Vision][..], &[Group::Language, Group::Projector], &[Group::Vision, Group::Language]] {
            let model = |form| {
                let mut model = load(&folder, form, Groups::of(held));
                model.hold(held);
                model
            };
            let (mut half, mut whole) = (model(Form::Half), model(Form::Dense));
            for parameter in half.parameters().iter() {
                let expected = parameter.is_base() && parameter.shape.len() > 1;
                assert_eq!(is_half(parameter), expected, "{family}: {} of {held:?}", parameter.name);
            }
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let (found, expected) = (pass(&mut half, &folder, dtype), pass(&mut whole, &folder, dtype));
                assert!(!expected.1.is_empty());
                assert!(found == expected, "{family} of {held:?} in {}", dtype.name());
            }
        }
    }
}

/// What trains is f32, whatever its file has.
#[test]
fn nothing_that_trains_is_in_bf16() {
    let Some(folder) = find("llama") else { return };
    let model = load(&folder, Form::Half, Groups::default());
    assert!(!model.parameters().iter().any(is_half));
    let mut fixed = load(&folder, Form::Half, Groups::ALL);
    fixed.parameters_mut().train();
    assert!(fixed.parameters().iter().all(|parameter| parameter.is_trainable() != is_half(parameter)));
}
