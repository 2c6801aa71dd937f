//! A small model, a batch for it, and what a pass over it executes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grades::Flops;
use grades_models::config::HfConfig;
use grades_models::model::PassOptions;
use grades_models::source::{LoadOptions, Source};
use grades_models::{Decoder, Error, Inputs, registry};
use grades_tensor::{Gradients, IGNORE_INDEX, Layout, device, executed};
use serde_json::{Value, json};

/// The counters of operations are of the process: only one test at a time may read them or add to them.
pub(crate) fn exclusive() -> MutexGuard<'static, ()> {
    static COUNTERS: Mutex<()> = Mutex::new(());
    COUNTERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `count` numbers in [-1, 1), the same for the same seed.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555_5555;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1_u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Random weights that depend on the tensor's name only; an untied head equals the embedding.
struct Random;

impl Source for Random {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let name = if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
        let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let values = values(seed, shape.iter().product());
        // Norm scales around 1, projections small enough for a tame loss.
        Ok(values.into_iter().map(|v| if shape.len() == 1 { 1.0 + 0.2 * v } else { 0.3 * v }).collect())
    }
}

pub(crate) const VOCABULARY: usize = 23;
pub(crate) const HIDDEN: usize = 12;
pub(crate) const INNER: usize = 10;
pub(crate) const LAYERS: usize = 3;
pub(crate) const QUERY: usize = 16;
pub(crate) const KEY: usize = 8;
/// Values of one layer's matrices.
pub(crate) const LAYER: usize = HIDDEN * (QUERY + 2 * KEY) + QUERY * HIDDEN + 3 * INNER * HIDDEN;

pub(crate) fn options() -> LoadOptions {
    LoadOptions::new(device("cpu").unwrap())
}

/// A model of which all trains, with these keys in its config beside its sizes.
pub(crate) fn model_with(keys: &Value, options: LoadOptions) -> Decoder {
    let mut config = json!({
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64,
    });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let mut model = registry::load(&HfConfig::new(config).unwrap(), &Random, options).unwrap();
    model.parameters_mut().train();
    model
}

pub(crate) fn model(tied: bool) -> Decoder {
    model_with(&json!({ "model_type": "llama", "tie_word_embeddings": tied }), options())
}

pub(crate) const TOKENS: usize = 8;
/// Pairs of a query and a key that it sees: 1 + … + 5 and 1 + … + 3.
const PAIRS: usize = 15 + 6;
pub(crate) const LABELS: usize = 5;

/// Samples of 5 and 3 tokens.
pub(crate) fn batch() -> (Inputs, Arc<Vec<i64>>) {
    let ids = Arc::new(vec![3, 7, 7, 22, 0, 1, 7, 5]);
    let targets = Arc::new(vec![IGNORE_INDEX, 7, 22, 0, 9, IGNORE_INDEX, 5, IGNORE_INDEX]);
    (Inputs::tokens(ids, Arc::new(Layout::packed(&[0..5, 5..TOKENS]))), targets)
}

/// The operations of a product over all tokens with a matrix of so many values.
pub(crate) fn matrix(values: usize) -> u64 {
    (2 * TOKENS * values) as u64
}

pub(crate) fn head() -> u64 {
    (2 * LABELS * VOCABULARY * HIDDEN) as u64
}

/// Two products forward and five backward for every visible pair and query column.
pub(crate) fn attention(products: usize) -> u64 {
    (2 * PAIRS * QUERY * products) as u64
}

pub(crate) fn freeze(model: &mut Decoder, frozen: impl Fn(&str) -> bool) {
    for parameter in model.parameters_mut().iter_mut().filter(|parameter| frozen(&parameter.name)) {
        parameter.set_trainable(false);
    }
}

/// What a pass gives.
pub(crate) struct Outcome {
    pub(crate) loss: f32,
    /// The gradients by slot, `None` where nothing was computed.
    pub(crate) gradients: Vec<Option<Vec<f32>>>,
    pub(crate) executed: Flops,
}

impl Outcome {
    /// The gradient of a parameter of one piece.
    pub(crate) fn of(&self, model: &Decoder, name: &str) -> Option<&[f32]> {
        let (_, piece) = model.parameters().pieces().find(|(parameter, _)| parameter.name == name).unwrap();
        self.gradients[piece.slot()].as_deref()
    }

    /// The parameters that have a gradient.
    pub(crate) fn given<'a>(&self, model: &'a Decoder) -> Vec<&'a str> {
        let given = model.parameters().pieces().filter(|(_, piece)| self.gradients[piece.slot()].is_some());
        given.map(|(parameter, _)| parameter.name.as_str()).collect()
    }
}

pub(crate) fn run(model: &Decoder, options: PassOptions) -> Outcome {
    let ((inputs, targets), before) = (batch(), executed());
    let pass = model.pass(&inputs, targets, 0.2, options);
    let loss = pass.loss().to_host()[0];
    let mut found = Gradients::new(model.parameters().slots());
    pass.backward(&mut found);
    let executed = executed().since(&before);
    let read = |slot| found.get(slot).map(|gradient| gradient.to_host().into_owned());
    Outcome { loss, gradients: (0..model.parameters().slots()).map(read).collect(), executed }
}

/// ‖found − expected‖ / ‖expected‖.
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x).powi(2);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    let size: f64 = expected.iter().copied().map(square).sum();
    (difference / size.max(1e-20)).sqrt()
}
