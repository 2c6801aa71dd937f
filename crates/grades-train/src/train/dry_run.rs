//! All of a run but its weights and its steps: what it would train, on what, and in how much memory.

use std::collections::HashSet;

use grades::{Policy, UnitId};
use grades_models::LoraConfig;
use grades_models::model::Outline;
use serde::Serialize;

use super::disk_plan::DiskPlan;
use super::error::TrainError;
use super::memory;
use super::outputs::Place;
use super::plan::{MemoryPlan, Workload};
use super::prepared::Prepared;
use super::start::Start;
use crate::config::{Config, LearningRate};
use crate::data::{Held, Placed};
use crate::eval::BATCH_TOKENS;

/// What a run would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DryRun {
    /// The model's architecture.
    pub model_type: String,
    /// Its numbers.
    pub parameters: u64,
    /// Those that train: the model's or the adapters'.
    pub trainable_parameters: u64,
    /// Matrices that freeze one by one.
    pub units: usize,
    /// Training samples.
    pub samples: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Samples kept back for validation.
    pub validation_samples: usize,
    /// Samples that were left out, or cut, as too long.
    pub dropped_samples: usize,
    /// See above.
    pub truncated_samples: usize,
    /// Steps of an epoch.
    pub steps_per_epoch: Option<usize>,
    /// Steps of the run.
    pub planned_steps: usize,
    /// Tokens of its largest micro-batch.
    pub largest_batch_tokens: u64,
    /// The dtype of its products.
    pub precision: &'static str,
    /// Its memory.
    pub memory: MemoryPlan,
    /// The memory that is free for it, where the system tells.
    pub available_memory: Option<u64>,
    /// What it writes.
    pub disk: DiskPlan,
    /// How long it would take, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeEstimate>,
}

/// How long a run would take if nothing froze or ended before the planned steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TimeEstimate {
    /// Seconds of a step with the mean number of tokens, with what the method measures in the middle of the run.
    pub step_seconds: f64,
    /// Tokens a second in training.
    pub tokens_per_second: f64,
    /// Seconds of a validation.
    pub validation_seconds: f64,
    /// Validations of the run, by `eval_steps` and at its end.
    pub validations: usize,
    /// Seconds of asking the model once, for `generate_samples` and `eval_tasks`.
    pub evaluation_seconds: f64,
    /// How often it is asked: by `eval_steps`, and at the end.
    pub evaluations: usize,
    /// Seconds of all steps, validations and evaluations.
    pub seconds: f64,
    /// Steps that were timed.
    pub timed_steps: usize,
    /// What finding it out took, in seconds, with loading the model.
    pub cost_seconds: f64,
}

/// Goes through a run up to where its weights would be loaded. Of a model of the Hub the weights are not fetched.
///
/// # Errors
/// As [`run`](super::run()).
pub fn dry_run(config: &Config) -> Result<DryRun, TrainError> {
    Start::of(config)?;
    DryRun::of(&Prepared::without_weights(config)?)
}

impl DryRun {
    /// Refuses a run that certainly needs more memory than there is, before the system ends it.
    ///
    /// # Errors
    /// If its plan is above what is available by more than a plan is ever off.
    pub(super) fn check_memory(&self, config: &Config) -> Result<(), TrainError> {
        /// By how much a plan may be too high.
        const DOUBT: f64 = 1.1;
        let Some(available) = self.available_memory else { return Ok(()) };
        if self.memory.peak as f64 <= DOUBT * available as f64 {
            return Ok(());
        }
        let way_out = match () {
            () if self.memory.activations > self.memory.peak / 2 && config.gradient_checkpointing => {
                "lower micro_batch_size or sequence_len"
            }
            () if self.memory.activations > self.memory.peak / 2 => {
                "set gradient_checkpointing: true, or lower micro_batch_size or sequence_len"
            }
            () if config.adapter.is_none() => "set adapter: lora, or optimizer: adamw_8bit, or take a smaller model",
            () if !config.load_in_4bit => "set load_in_4bit: true, or take a smaller model",
            () => "take a smaller model",
        };
        Err(TrainError::Memory { needed: self.memory.peak, available, way_out })
    }

    /// Of a run whose data are read.
    pub(super) fn of(prepared: &Prepared) -> Result<Self, TrainError> {
        let (config, early_stopping) = (&prepared.config, prepared.early_stopping());
        let mut outline = prepared.source.outline(early_stopping.split_fused())?;
        outline.hold(&config.held());
        let lora = config.lora();
        let units: Vec<UnitId> = outline.units(lora.as_ref()).into_iter().collect();
        let policy = early_stopping.build(&units, prepared.planned_steps)?;
        let (largest_batch_tokens, rows) = prepared.feed.largest(prepared.planned_steps);
        let patches = outline.vision().map_or(0, |vision| vision.patches_of(rows)) as u64;
        let precision = config.precision.resolve();
        let workload = Workload {
            adapter: lora.as_ref(),
            load_in_4bit: config.load_in_4bit,
            fold_frozen: config.fold_frozen,
            precision,
            rule: config.rule(),
            tokens: largest_batch_tokens as u64,
            patches,
            features: features(prepared, &outline, lora.as_ref()),
            accumulates: config.gradient_accumulation_steps > 1,
            gradient_checkpointing: config.gradient_checkpointing,
            kept_copies: kept_copies(policy.as_ref(), prepared.planned_steps),
            // The search of a rate keeps the initial weights, before there is an average.
            weight_average: config.weight_average().is_some() || config.learning_rate == LearningRate::Auto,
            written_tokens: written_tokens(prepared),
            scored_tokens: if config.eval_tasks.is_empty() { 0 } else { BATCH_TOKENS as u64 },
            has_texts: true,
        };
        let memory = MemoryPlan::of(&outline, &workload)?;
        let parameters: u64 = outline.parameters().iter().map(|parameter| parameter.len() as u64).sum();
        let samples = prepared.objective.own(prepared.feed.samples());
        let trainable_parameters = match &lora {
            Some(config) => outline.adapters(config)?.iter().sum::<usize>() as u64,
            None => outline.parameters().iter().filter(|p| !p.is_base()).map(|p| p.len() as u64).sum(),
        };
        Ok(Self {
            model_type: prepared.source.model_type()?,
            parameters,
            trainable_parameters,
            disk: DiskPlan::of(
                config,
                &memory,
                (parameters, trainable_parameters),
                (prepared.epoch_steps(), prepared.planned_steps),
            ),
            units: units.len(),
            samples: prepared.training_samples,
            tokens: samples.iter().map(|sample| sample.len() as u64).sum(),
            validation_samples: prepared.validation.samples,
            dropped_samples: prepared.dropped_samples,
            truncated_samples: prepared.truncated_samples,
            steps_per_epoch: prepared.feed.steps_per_epoch(),
            planned_steps: prepared.planned_steps,
            largest_batch_tokens: largest_batch_tokens as u64,
            precision: precision.name(),
            memory,
            available_memory: memory::available(),
            time: None,
        })
    }
}

/// Tokens of the prompts of `generate_samples` with their answers; a sample is at least as long as its prompt.
fn written_tokens(prepared: &Prepared) -> u64 {
    let answer = prepared.config.generation_max_new_tokens();
    prepared.validation.asked.iter().map(|sample| (sample.ids.len() + answer) as u64).sum()
}

/// Most bytes that are kept of pictures in memory from the first step on, because nothing of the tower trains.
fn features(prepared: &Prepared, outline: &Outline, adapter: Option<&LoraConfig>) -> u64 {
    let options = prepared.config.vision_cache_options();
    let (Some(vision), [false, projector]) = (outline.vision(), outline.pictures_train(adapter)) else { return 0 };
    if options.place != Place::Memory {
        return 0;
    }
    let samples = prepared.feed.samples().iter().flat_map(Held::pictures);
    let validation = prepared.validation.batches.iter().flat_map(|batch| &batch.pictures);
    let mut seen = HashSet::new();
    let different = samples.chain(validation).filter(|placed| seen.insert(placed.picture.address()));
    let rows: usize = different.map(Placed::rows).sum();
    let numbers = match projector {
        true => vision.patches_of(rows) * vision.width(outline.parameters()),
        false => rows * outline.sizes().hidden_size,
    };
    options.size.min(numbers as u64 * options.dtype.bytes() as u64)
}

/// The copies that a method keeps of the matrices at some step: of their gradients, and of their weights.
fn kept_copies(policy: &dyn Policy, steps: usize) -> u64 {
    let wants = || (0..=steps).map(|step| policy.wants(step));
    u64::from(wants().any(|wants| wants.keep_gradient)) + u64::from(wants().any(|wants| wants.keep_weight))
}
