//! How much memory a run will hold, from the model's outline and the largest batch, before anything is loaded.

use grades_models::LoraConfig;
use grades_models::model::{Forms, Outline};
use grades_models::parameters::{Parameter, Place};
use grades_models::source::Form;
use grades_tensor::Dtype;
use serde::Serialize;

use super::error::TrainError;
use super::rule::Rule;

/// Bytes of a number in f32.
const F32: u64 = 4;
/// Bytes of a number in bf16.
const HALF: u64 = 2;
/// 64ths of a byte that a value takes in NF4.
const NF4_64THS: u64 = 33;
/// The program and its threads' buffers.
const PROGRAM: u64 = 24 << 20;
/// A tokenizer and data.
const TEXTS: u64 = 40 << 20;
/// Gradients of logits that the head holds at a time, and a block of logits (`grades_kernels::cross_entropy`).
const HEAD: u64 = (96 + 8) << 20;

/// What decides how much memory a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The adapters; without them the model itself trains.
    pub adapter: Option<&'a LoraConfig>,
    /// Whether the matrices under the adapters are packed.
    pub load_in_4bit: bool,
    /// Whether adapters that are frozen are added to their matrices.
    pub fold_frozen: bool,
    /// The dtype of the products.
    pub precision: Dtype,
    /// The update.
    pub rule: Rule,
    /// Tokens of the largest micro-batch.
    pub tokens: u64,
    /// Patches of pictures in it.
    pub patches: u64,
    /// Most bytes of what is kept of pictures.
    pub features: u64,
    /// Whether a step has several micro-batches.
    pub accumulates: bool,
    /// Whether layers run again in the backward pass.
    pub gradient_checkpointing: bool,
    /// Copies of the matrices that the method keeps from step to step: gradients, weights.
    pub kept_copies: u64,
    /// Whether an average of the weights is kept.
    pub weight_average: bool,
    /// Most tokens of texts that are written between steps, all at once.
    pub written_tokens: u64,
    /// Most tokens of questions that are scored between steps, all at once.
    pub scored_tokens: u64,
    /// Whether there are a tokenizer and data, which a benchmark has not.
    pub has_texts: bool,
}

/// The memory of a run at its highest, in bytes, by what holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// The model's values, and those of its adapters.
    pub weights: u64,
    /// A gradient for each value that trains.
    pub gradients: u64,
    /// What the optimizer remembers.
    pub optimizer: u64,
    /// What the method keeps of the step before.
    pub kept: u64,
    /// The average of the weights.
    pub average: u64,
    /// What the backward pass needs of the forward pass.
    pub activations: u64,
    /// The pixels of the pictures of a micro-batch, and what a vision tower holds at a time that is not kept for the backward pass.
    pub pictures: u64,
    /// What is kept of pictures from step to step.
    pub features: u64,
    /// What answers and scores between steps take, while there are neither activations nor gradients.
    pub evaluation: u64,
    /// All of it when most of it is held at once, with the program itself.
    pub peak: u64,
}

impl MemoryPlan {
    /// Of a run.
    ///
    /// # Errors
    /// If the adapters do not fit the model.
    pub fn of(outline: &Outline, workload: &Workload<'_>) -> Result<Self, TrainError> {
        let base: u64 = outline.forms().map(|(parameter, forms)| held(outline, workload, parameter, forms)).sum();
        let (adapters, trains, matrices, optimizer) = match workload.adapter {
            Some(config) => {
                let adapters = outline.adapters(config)?;
                let values = adapters.iter().sum::<usize>() as u64;
                let state = adapters.iter().map(|&values| workload.rule.state_bytes(values)).sum();
                (values, values, values, state)
            }
            None => {
                let pieces = || outline.parameters().pieces().filter(|(_, piece)| piece.place != Place::Base);
                let values = |(parameter, piece): (&Parameter, &_)| parameter.extent(piece).1.iter().product::<usize>();
                let of_units = pieces().filter(|(_, piece)| piece.place.unit().is_some());
                let state = |(parameter, piece)| {
                    workload.rule.of_piece(parameter, piece).state_bytes(values((parameter, piece)))
                };
                let trains = pieces().map(values).sum::<usize>() as u64;
                (0, trains, of_units.map(values).sum::<usize>() as u64, pieces().map(state).sum())
            }
        };
        let mut plan = Self {
            weights: base + F32 * adapters,
            gradients: F32 * trains,
            optimizer,
            kept: workload.kept_copies * F32 * matrices,
            average: if workload.weight_average { F32 * trains } else { 0 },
            pictures: pictures(outline, workload),
            features: workload.features,
            ..Self::default()
        };
        let by_layers = outline.kept_by_layers(workload.precision, workload.adapter);
        plan.activations = activations(outline, workload, &by_layers);
        plan.evaluation = evaluation(outline, workload, &by_layers);
        plan.peak = plan.highest(outline, workload, &by_layers);
        Ok(plan)
    }

    /// Either the backward pass begins, with all activations, or it ends, with all gradients, or the model is asked between steps.
    fn highest(&self, outline: &Outline, workload: &Workload<'_>, by_layers: &[usize]) -> u64 {
        let beside = PROGRAM + if workload.has_texts { TEXTS } else { 0 };
        let always = beside + self.weights + self.optimizer + self.kept + self.average + self.features + self.pictures;
        let sizes = outline.sizes();
        let number = workload.precision.bytes() as u64;
        let [hidden, vocabulary] = [sizes.hidden_size, sizes.vocab_size].map(|size| size as u64);
        let of_head = if workload.adapter.is_some() { 0 } else { F32 * hidden * vocabulary };
        let head = HEAD.min(number * workload.tokens * vocabulary) + 2 * number * workload.tokens * hidden;
        let before = if workload.accumulates { self.gradients } else { of_head };
        let begin = self.activations + head + before;
        let largest = by_layers.iter().max().copied().unwrap_or(0) as u64;
        let end = self.gradients + 2 * workload.tokens * largest;
        always + begin.max(end).max(self.evaluation)
    }
}

/// Bytes of a parameter of the model: what does not train is held as its file has it.
fn held(outline: &Outline, workload: &Workload<'_>, parameter: &Parameter, forms: Forms) -> u64 {
    let (values, fixed) = (parameter.len() as u64, workload.adapter.is_some() || parameter.is_base());
    // With what is folded into it a weight is no number of bf16 any more.
    let folded = || workload.adapter.is_some_and(|config| outline.has_adapter(parameter, config));
    match forms.stored {
        Form::Packed(bytes) if workload.load_in_4bit && (forms.packable || fixed) => bytes,
        _ if workload.load_in_4bit && forms.packable => values * NF4_64THS / 64,
        Form::Half if fixed && !(workload.fold_frozen && folded()) => HALF * values,
        _ => F32 * values,
    }
}

/// What is kept of all layers until the backward pass begins.
fn activations(outline: &Outline, workload: &Workload<'_>, by_layers: &[usize]) -> u64 {
    let hidden = outline.sizes().hidden_size;
    let per_token = match (workload.gradient_checkpointing, by_layers) {
        // The input of each but the last, which is recorded.
        (true, [before @ .., last]) => F32 as usize * hidden * before.len() + last,
        (_, all) => all.iter().sum(),
    };
    let of_vision = outline.kept_by_vision_layers(workload.precision, workload.adapter);
    let width = outline.vision().map_or(0, |vision| vision.width(outline.parameters()));
    let per_patch = match (outline.pictures_train(workload.adapter), workload.gradient_checkpointing) {
        ([false, _], _) => 0,
        ([true, _], true) => F32 as usize * width * of_vision.len(),
        ([true, _], false) => of_vision.iter().sum(),
    };
    workload.tokens * per_token as u64 + workload.patches * per_patch as u64
}

/// Keys and values of all texts that are written at a time, or one layer of all questions, with a block of logits.
fn evaluation(outline: &Outline, workload: &Workload<'_>, by_layers: &[usize]) -> u64 {
    let sizes = outline.sizes();
    let largest = by_layers.iter().max().copied().unwrap_or(0) + 2 * F32 as usize * sizes.hidden_size;
    let written = workload.written_tokens * (outline.kept_while_writing(workload.precision) + largest) as u64;
    let scored = workload.scored_tokens * largest as u64;
    let tokens = workload.written_tokens.max(workload.scored_tokens);
    written.max(scored) + HEAD.min(F32 * tokens * sizes.vocab_size as u64)
}

/// The pixels of a micro-batch, as they are decoded and as the tower reads them, and one layer of the tower, which runs without a
/// record where nothing of it trains, and again by itself with checkpointing.
fn pictures(outline: &Outline, workload: &Workload<'_>) -> u64 {
    let Some(vision) = outline.vision() else { return 0 };
    let pixels = 2 * F32 * vision.patch_numbers() as u64;
    let layers = outline.kept_by_vision_layers(workload.precision, workload.adapter);
    workload.patches * (pixels + layers.iter().max().copied().unwrap_or(0) as u64)
}
