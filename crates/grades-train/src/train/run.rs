//! A whole run: config → model → data → trainer → run directory.

use std::io::Write;
use std::path::PathBuf;

use burn::tensor::Device;
use grades::{Cost, EarlyStopping, Policy, StopReason, UnitId};
use grades_models::ops::Flops;
use grades_models::parameters::Place;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::{SaveDtype, SaveOptions, TensorToSave, WeightsError, save_checkpoint};
use grades_models::{Decoder, LoraConfig, host, peft};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::freeze::units;
use super::material::Material;
use super::optimizer::Rule;
use super::origin::Origin;
use super::run_dir::RunDir;
use super::start::Start;
use super::trainer::{Options, Outcome, Trainer};
use super::{TrainError, memory};
use crate::config::{Config, Optimizer};
use crate::report;

/// What `grades train --json` prints, and `summary.json` of the run directory holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The run's directory.
    pub run_dir: PathBuf,
    /// The trained model, in the Hugging Face layout; with `adapter: lora` the adapter, as PEFT stores it.
    pub model_dir: PathBuf,
    /// Steps made.
    pub steps: usize,
    /// Steps planned.
    pub planned_steps: usize,
    /// Why training ended before the planned steps; `null` if it did not.
    pub stopped_by: Option<StopReason>,
    /// Seconds of the training steps with validation.
    pub seconds: f64,
    /// Seconds of them spent on validation.
    pub validation_seconds: f64,
    /// Seconds of them spent on measuring for early stopping.
    pub monitor_seconds: f64,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    /// Matrices that can freeze.
    pub units: usize,
    /// Matrices that are frozen at the end.
    pub frozen_units: usize,
    /// Mean training loss over all steps.
    pub train_loss: f64,
    /// Loss on the validation set at the end; `null` if there is none.
    pub val_loss: Option<f64>,
    /// Executed operations of training by kind.
    pub flops: Flops,
    /// Operations of validation before the end.
    #[serde(default)]
    pub validation_flops: u64,
    /// Operations of measuring and of the method itself.
    #[serde(default)]
    pub monitor_flops: u64,
    /// Most bytes that were kept from step to step for the method: gradients, weights, the best weights.
    #[serde(default)]
    pub monitor_bytes: u64,
    /// How often the method measured and validated, by its own count.
    #[serde(default)]
    pub checks: Cost,
    /// Most memory that the process held; `null` where the system does not say.
    pub peak_memory_bytes: Option<u64>,
}

/// What of the machine and the program may matter for a figure.
#[derive(Debug, Serialize)]
struct Environment {
    version: &'static str,
    commit: Option<&'static str>,
    operating_system: &'static str,
    architecture: &'static str,
    processor: Option<String>,
    threads: usize,
    precision: &'static str,
    samples: usize,
    validation_samples: usize,
    dropped_samples: usize,
    truncated_samples: usize,
    parameters: usize,
    trainable_parameters: usize,
    /// Memory of the weights.
    model_bytes: u64,
    units: usize,
    planned_steps: usize,
}

/// Runs a config to the end and leaves everything in its directory.
///
/// # Errors
/// One sentence about the file, key or row that is wrong; nothing that existed is changed.
pub fn run(config: &Config, progress: bool) -> Result<Summary, TrainError> {
    let resumed = config.resume_from_checkpoint.as_deref();
    match resumed.filter(|checkpoint| !checkpoint.join("state.json").is_file()) {
        Some(checkpoint) => {
            return Err(TrainError::Other(format!(
                "`resume_from_checkpoint: {}` is not a checkpoint; give a folder such as \
                 runs/first/checkpoints/step-000100",
                checkpoint.display()
            )));
        }
        None if resumed.is_none() => RunDir::check_free(&config.output_dir)?,
        None => {}
    }
    // Data first: a mistake in a row shows before the model is loaded.
    let material = Material::of(config)?;
    let early_stopping = material.early_stopping();
    let Material { config, origin, tokenizer, loader, validation, planned_steps, .. } = material;
    let (config, validation_samples) = (&config, material.validation_samples);
    let (dropped_samples, truncated_samples) = (material.dropped_samples, material.truncated_samples);

    let mut model = origin.load(&Device::default().autodiff(), config.storage())?;
    if let Some(lora) = config.lora() {
        model = model.with_adapter(lora, &LoraConfig::initial(config.seed))?;
    }
    model.set_precision(config.precision.resolve());
    let policy = early_stopping.build(&units(&model), planned_steps)?;
    let options = options(config, planned_steps, loader.steps_per_epoch());
    let thresholds = thresholds(&early_stopping, policy.as_ref(), &units(&model));
    let (parameters, unit_count) = (model.parameters().iter().map(|p| p.len()).sum(), units(&model).len());
    let model_bytes = model.parameters().iter().map(|p| p.bytes() as u64).sum();
    let trained = model.parameters().iter().filter(|p| p.place != Place::Base);
    let trainable_parameters = trained.map(|p| p.len()).sum();
    let start = Start::new(model, policy, &options);
    let start = if let Some(checkpoint) = resumed { start.resume(checkpoint, &options)? } else { start };
    // Only now, so that a mistake in the config, the data, the model or the checkpoint leaves nothing behind.
    let mut dir = match resumed {
        Some(checkpoint) => RunDir::resume(&config.output_dir, checkpoint)?,
        None => RunDir::create(&config.output_dir)?,
    };
    if let Some(line) = origin.decoded(config).filter(|_| progress) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    dir.report_to(config.report_to.trackers(), resumed.map(|_| start.step()))?;
    let environment = Environment {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("GRADES_COMMIT"),
        operating_system: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
        processor: memory::processor(),
        threads: grades_kernels::threads(),
        precision: config.precision.resolve().name(),
        samples: loader.samples().len(),
        validation_samples,
        dropped_samples,
        truncated_samples,
        parameters,
        trainable_parameters,
        model_bytes,
        units: unit_count,
        planned_steps,
    };
    // A run that goes on in its own directory keeps what it began with.
    if !dir.path().join("config.yaml").exists() {
        dir.write("config.yaml", config.to_yaml().map_err(|e| TrainError::Other(e.to_string()))?.as_bytes())?;
        dir.write("environment.json", &pretty(&environment)?)?;
        dir.write("units.json", &pretty(&thresholds)?)?;
    }

    let trainer = Trainer::new(start, loader, &validation, options, &mut dir);
    let trainer = if progress { trainer.with_progress() } else { trainer };
    let (model, outcome) = trainer.train()?;
    match model.adapter() {
        Some(_) => peft::save(&dir.adapter(), &model, config.model.checkpoint())?,
        None => save(&model, &origin, &tokenizer, &dir)?,
    }
    let summary = summary(&dir, &model, &outcome, planned_steps);
    dir.write("summary.json", &pretty(&summary)?)?;
    report::write_into(dir.path())?;
    Ok(summary)
}

/// What `units.json` holds: every matrix that can freeze with what its signal is compared with.
fn thresholds(method: &EarlyStopping, policy: &dyn Policy, units: &[UnitId]) -> Value {
    let (signal, norm, freezes) = match method {
        EarlyStopping::Grades(config) => {
            let signal = config.signal();
            let freezes = if signal.passes(1.0, 0.0) { "above" } else { "below" };
            (Some(signal), Some(config.norm()), Some(freezes))
        }
        _ => (None, None, None),
    };
    let units = units.iter().map(|unit| json!({ "unit": unit, "threshold": policy.threshold(*unit) }));
    json!({ "method": method.name(), "signal": signal, "norm": norm, "freezes": freezes,
            "units": units.collect::<Vec<_>>() })
}

fn options(config: &Config, planned_steps: usize, steps_per_epoch: usize) -> Options {
    let rule = match config.optimizer {
        Optimizer::AdamW => {
            Rule::AdamW { beta1: config.adam_beta1, beta2: config.adam_beta2, epsilon: config.adam_epsilon }
        }
        Optimizer::Sgd => Rule::Sgd { momentum: config.momentum },
    };
    Options {
        schedule: config.schedule(planned_steps),
        rule,
        weight_decay: config.weight_decay,
        loraplus_lr_ratio: config.loraplus_lr_ratio.unwrap_or(1.0),
        max_grad_norm: Some(config.max_grad_norm).filter(|&norm| norm > 0.0),
        seed: config.seed,
        fold_frozen: config.fold_frozen,
        gradient_checkpointing: config.gradient_checkpointing,
        prefix_cache: config.prefix_cache_options(),
        eval_steps: match config.eval_steps.map(|every| every.of(planned_steps)) {
            None => Some(steps_per_epoch),
            Some(every) => Some(every).filter(|every| *every > 0),
        },
        save_steps: config.save_steps.clone(),
        logging_steps: config.logging_steps,
    }
}

fn save(model: &Decoder, origin: &Origin, tokenizer: &Tokenizer, dir: &RunDir) -> Result<(), TrainError> {
    let failed = |error: grades_models::Error| WeightsError::Values(error.to_string());
    let tensors = model.parameters().iter().map(|parameter| {
        TensorToSave::deferred(&parameter.name, &parameter.shape, move || {
            host::read(&parameter.name, &parameter.value, |values| values.to_vec().into()).map_err(failed)
        })
    });
    let options =
        SaveOptions { dtype: SaveDtype::F32, generation_config: origin.generation_config(), ..SaveOptions::default() };
    let mut config = origin.config().clone();
    if model.is_untied() {
        config["tie_word_embeddings"] = false.into();
    }
    save_checkpoint(&dir.model(), &config, tensors, &options)?;
    Ok(tokenizer.save(&dir.model())?)
}

fn summary(dir: &RunDir, model: &Decoder, outcome: &Outcome, planned_steps: usize) -> Summary {
    let frozen = |unit: &UnitId| model.parameters().iter().all(|p| p.place != Place::Unit(*unit) || !p.is_trainable());
    let units = units(model);
    Summary {
        run_dir: dir.path().into(),
        model_dir: if model.adapter().is_some() { dir.adapter() } else { dir.model() },
        steps: outcome.steps,
        planned_steps,
        stopped_by: outcome.stopped,
        seconds: outcome.seconds,
        validation_seconds: outcome.validation_seconds,
        monitor_seconds: outcome.monitor_seconds,
        tokens: outcome.tokens,
        frozen_units: units.iter().filter(|unit| frozen(unit)).count(),
        units: units.len(),
        train_loss: outcome.train_loss,
        val_loss: outcome.val_loss,
        flops: outcome.flops,
        validation_flops: outcome.validation_flops,
        monitor_flops: outcome.monitor_flops,
        monitor_bytes: outcome.monitor_bytes,
        checks: outcome.checks,
        peak_memory_bytes: memory::peak(),
    }
}

fn pretty(value: &impl Serialize) -> Result<Vec<u8>, TrainError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| TrainError::Other(e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}
