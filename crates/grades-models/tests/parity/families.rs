//! Logits, loss, every gradient and three AdamW steps of every family, in f32 and in bf16.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use grades_models::config::HfConfig;
use grades_models::model::PassOptions;
use grades_models::parameters::Parameter;
use grades_models::source::{LoadOptions, Source};
use grades_models::{Error, registry};
use grades_tensor::{Dtype, Gradients};

use crate::fixture::{
    Batch, Bf16Bounds, TOLERANCE, Values, assert_close, assert_within, cpu, find, fixtures, gradient, json, load,
    reference_name, relative_error,
};

/// AdamW as the fixtures' script runs it, in f64: lr 1e-2, betas 0.9 and 0.999, eps 1e-8, weight decay 0.01.
fn adamw(step: i32, weight: &mut [f32], gradient: &[f32], (m, v): &mut (Vec<f64>, Vec<f64>)) {
    for (((w, &g), m), v) in weight.iter_mut().zip(gradient).zip(m).zip(v) {
        let g = f64::from(g);
        *m = 0.9 * *m + 0.1 * g;
        *v = 0.999 * *v + 0.001 * g * g;
        let (m, v) = (*m / (1.0 - 0.9f64.powi(step)), *v / (1.0 - 0.999f64.powi(step)));
        let decayed = f64::from(*w) * (1.0 - 1e-2 * 0.01);
        *w = (decayed - 1e-2 * m / (v.sqrt() + 1e-8)) as f32;
    }
}

fn l1(values: impl Iterator<Item = f64>) -> f32 {
    values.map(f64::abs).sum::<f64>() as f32
}

/// What freezing measures of one parameter at one step: the sums over its pieces are the reference's, and at the first step,
/// of which there are gradients, each piece's is.
fn check_l1(step: i32, parameter: &Parameter, gradients: &Gradients, before: Option<&[f32]>, expected: &Values) {
    let name = reference_name(&parameter.name);
    // The change of a bias of the keys is as small as the rounding of its gradient.
    if parameter.shape.len() != 2 {
        return;
    }
    let (mut whole, mut change) = (0.0, 0.0);
    for piece in parameter.pieces() {
        let (first, [rows, columns]) = parameter.extent(piece);
        let of_piece = first..first + rows * columns;
        let now = gradients.get(piece.slot()).unwrap().to_host();
        let before = |i: usize| before.map_or(0.0, |before| f64::from(before[of_piece.start + i]));
        let norm = l1(now.iter().map(|&g| f64::from(g)));
        whole += norm;
        change += l1(now.iter().enumerate().map(|(i, &g)| f64::from(g) - before(i)));
        if step == 1 {
            let reference = l1(expected.get(&format!("grad.{name}"))[of_piece].iter().copied());
            assert_close(&format!("L1 of {name}, {:?}", piece.place), &[norm], &[reference.into()]);
        }
    }
    assert_close(&format!("L1 of {name}"), &[whole], expected.get(&format!("l1.{step}.{name}")));
    let reference = expected.get(&format!("l1_change.{step}.{name}"));
    assert_close(&format!("L1 change of {name} at step {step}"), &[change], reference);
}

fn check_family(folder: &Path, config: &str) {
    let expected = Values::expected(folder);
    let (mut model, batch) = (load(folder, config), Batch::new(&expected));
    let reference = batch.kept_rows(expected.get("logits"), model.sizes().vocab_size);
    assert_close("logits", &batch.logits(&model), &reference);
    // Every gradient of the reference has its parameter here.
    let trained = model.parameters().iter().filter(|parameter| parameter.is_trainable());
    let trained: BTreeSet<String> = trained.map(|parameter| reference_name(&parameter.name)).collect();
    let known: BTreeSet<String> =
        expected.names().filter_map(|name| Some(name.strip_prefix("grad.")?.into())).collect();
    assert_eq!(trained, known);

    let zeros = |parameter: &Parameter| (vec![0.0; parameter.len()], vec![0.0; parameter.len()]);
    let mut state: Vec<_> = model.parameters().iter().map(zeros).collect();
    let mut before: HashMap<String, Vec<f32>> = HashMap::new();
    for step in 1..=3 {
        let (loss, gradients) = batch.pass(&model, PassOptions::default());
        assert_close(&format!("loss of step {step}"), &[loss], expected.get(&format!("loss.{step}")));
        for (parameter, state) in model.parameters_mut().iter_mut().zip(&mut state) {
            let found = gradient(parameter, &gradients);
            assert_eq!(found.is_some(), !parameter.is_base(), "gradient of {}", parameter.name);
            let Some(found) = found else { continue };
            let name = reference_name(&parameter.name);
            check_l1(step, parameter, &gradients, before.get(&name).map(Vec::as_slice), &expected);
            if step == 1 {
                assert_close(&format!("gradient of {name}"), &found, expected.get(&format!("grad.{name}")));
            }
            let mut weight = parameter.to_host().into_owned();
            adamw(step, &mut weight, &found, state);
            let (device, shape) = (parameter.value.device(), parameter.value.shape());
            parameter.value = device.from_host(weight, shape);
            before.insert(name, found);
        }
    }
    for parameter in model.parameters().iter().filter(|parameter| !parameter.is_base()) {
        let reference = expected.get(&format!("weight.3.{}", reference_name(&parameter.name)));
        // Softmax hardly sees a bias of the keys: its gradient is what is left of large terms that cancel, and AdamW,
        // which divides by the gradient's size, makes that rounding visible.
        let tolerance = if parameter.name.ends_with("k_proj.bias") { 10.0 * TOLERANCE } else { TOLERANCE };
        assert_within(tolerance, &format!("{} after three steps", parameter.name), &parameter.to_host(), reference);
    }
}

/// Logits, loss and every gradient with products of bf16 numbers.
fn check_in_bf16(folder: &Path, config: &str) {
    let Some(bounds) = Bf16Bounds::read(folder) else { return };
    let expected = Values::expected(folder);
    let (mut model, batch) = (load(folder, config), Batch::new(&expected));
    model.set_dtype(Dtype::Bf16);
    let reference = batch.kept_rows(expected.get("logits"), model.sizes().vocab_size);
    let (loss, gradients) = batch.pass(&model, PassOptions::default());
    // A bias is judged with its matrix, of whose unit it is: softmax hardly sees one of the keys, so that its gradient is what
    // is left of large terms that cancel.
    let mut modules: BTreeMap<String, (Vec<f32>, Vec<f64>)> = BTreeMap::new();
    for parameter in model.parameters().iter() {
        let Some(found) = gradient(parameter, &gradients) else {
            assert!(parameter.is_base(), "no gradient of {}", parameter.name);
            continue;
        };
        let name = parameter.name.replace(".bias", ".weight");
        let (all_found, all_expected) = modules.entry(name).or_default();
        all_found.extend_from_slice(&found);
        all_expected.extend_from_slice(expected.get(&format!("grad.{}", reference_name(&parameter.name))));
    }
    let together = modules.values().cloned().reduce(|all, one| ([all.0, one.0].concat(), [all.1, one.1].concat()));
    let (all_found, all_expected) = together.unwrap();
    let each = modules.iter().map(|(name, (found, expected))| (relative_error(found, expected), name));
    let (worst, name) = each.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
    let errors = [
        ("logits".to_owned(), relative_error(&batch.logits(&model), &reference), bounds.logits),
        // One number, in which the errors of the tokens' logits cancel more or less, as luck has it: on these fixtures
        // autocast's is a tenth to a hundredth of that in its logits, and products of unrounded weights give a loss that is
        // off by up to four times as much.
        ("loss".to_owned(), relative_error(&[loss], expected.get("loss.1")), bounds.logits),
        ("all gradients".to_owned(), relative_error(&all_found, &all_expected), bounds.gradients),
        (format!("gradient of {name}"), worst, bounds.each_gradient),
    ];
    for (what, error, bound) in &errors {
        println!("  {what} in bf16: off by {error:.2e} of {bound:.2e}");
    }
    for (what, error, bound) in errors {
        assert!(error <= bound, "{what} in bf16 differs by {error:.2e}, and {bound:.2e} is allowed");
    }
}

#[test]
fn families_match_the_reference() {
    let known: BTreeSet<&str> = registry::families().collect();
    let mut checked = 0;
    let mut folders: Vec<_> = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let name = folder.file_name().unwrap().to_string_lossy();
        let config = folder.join("config.json");
        let family = config.exists().then(|| json(&config)["model_type"].as_str().map(str::to_owned)).flatten();
        match family {
            Some(family) if known.contains(family.as_str()) => {
                for config in ["config.json", "config.v4.json"] {
                    if folder.join(config).exists() {
                        println!("{name}/{config}: checking");
                        check_family(folder, config);
                        check_in_bf16(folder, config);
                    }
                }
                checked += 1;
            }
            Some(family) => println!("{name}: skipped, {family} is not a family of this test"),
            None => println!("{name}: skipped, it holds no model"),
        }
    }
    assert!(checked > 0, "no fixture of a known family in {}", fixtures().display());
}

/// A config that ties the head to the embedding, beside weights whose head is another: transformers then takes the head of the
/// file, so the model is the one whose config says that they are not tied.
#[test]
fn a_head_of_its_own_counts_whatever_the_config_says() {
    let Some(untied) = find("mistral") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "expected.safetensors"] {
        std::fs::copy(untied.join(name), folder.path().join(name)).unwrap();
    }
    let mut config = json(&untied.join("config.json"));
    assert_eq!(config["tie_word_embeddings"], false);
    config["tie_word_embeddings"] = true.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    check_family(folder.path(), "config.json");
    assert!(!load(folder.path(), "config.json").is_tied());
}

/// A head that is written out although it is the embedding stays tied to it.
#[test]
fn a_head_that_is_the_embedding_stays_tied() {
    struct Same(Values);
    impl Source for Same {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.0.shape(if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name })
        }

        fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
            self.0.load(if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name }, shape)
        }
    }
    let Some(folder) = find("llama") else { return };
    let config = json(&folder.join("config.json"));
    assert_eq!(config["tie_word_embeddings"], true);
    let values = Same(Values::read(&folder.join("model.safetensors")));
    let model = registry::load(&HfConfig::new(config).unwrap(), &values, LoadOptions::new(cpu())).unwrap();
    assert!(model.is_tied() && model.parameters().iter().all(|parameter| parameter.name != "lm_head.weight"));
}
