//! A whole run: config → model → data → trainer → run directory.

use std::io::Write;

use burn::tensor::Device;
use grades::{EarlyStopping, Policy, UnitId};
use grades_models::parameters::Place;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::{SaveDtype, SaveOptions, TensorToSave, WeightsError, save_checkpoint};
use grades_models::{Decoder, LoraConfig, host, peft};
use grades_report::record::{self, Environment, Summary, UnitThreshold, Units};
use serde::Serialize;

use super::freeze::units;
use super::material::Material;
use super::optimizer::Rule;
use super::origin::Origin;
use super::run_dir::RunDir;
use super::start::Start;
use super::trainer::{Options, Outcome, Trainer};
use super::{TrainError, memory};
use crate::config::{Config, Optimizer};

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
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        commit: option_env!("GRADES_COMMIT").map(str::to_owned),
        operating_system: Some(std::env::consts::OS.to_owned()),
        architecture: Some(std::env::consts::ARCH.to_owned()),
        processor: memory::processor(),
        threads: Some(grades_kernels::threads()),
        precision: Some(config.precision.resolve().name().to_owned()),
        samples: Some(loader.samples().len()),
        validation_samples: Some(validation_samples),
        dropped_samples: Some(dropped_samples),
        truncated_samples: Some(truncated_samples),
        parameters: Some(parameters),
        trainable_parameters: Some(trainable_parameters),
        model_bytes: Some(model_bytes),
        units: Some(unit_count),
        planned_steps: Some(planned_steps),
        ..Environment::default()
    };
    // A run that goes on in its own directory keeps what it began with.
    if !dir.path().join(record::CONFIG).exists() {
        dir.write(record::CONFIG, config.to_yaml().map_err(|e| TrainError::Other(e.to_string()))?.as_bytes())?;
        dir.write(record::ENVIRONMENT, &pretty(&environment)?)?;
        dir.write(record::UNITS, &pretty(&thresholds)?)?;
    }

    let trainer = Trainer::new(start, loader, &validation, options, &mut dir);
    let trainer = if progress { trainer.with_progress() } else { trainer };
    let (model, outcome) = trainer.train()?;
    match model.adapter() {
        Some(_) => peft::save(&dir.adapter(), &model, config.model.checkpoint())?,
        None => save(&model, &origin, &tokenizer, &dir)?,
    }
    let summary = summary(&dir, &model, &outcome, planned_steps);
    dir.write(record::SUMMARY, &pretty(&summary)?)?;
    grades_report::write_into(dir.path())?;
    Ok(summary)
}

/// What `units.json` holds: every matrix that can freeze with what its signal is compared with.
fn thresholds(method: &EarlyStopping, policy: &dyn Policy, units: &[UnitId]) -> Units {
    let (signal, norm, freezes) = match method {
        EarlyStopping::Grades(config) => {
            let signal = config.signal();
            let freezes = if signal.passes(1.0, 0.0) { "above" } else { "below" };
            (Some(signal.name().to_owned()), Some(config.norm().name().to_owned()), Some(freezes.to_owned()))
        }
        _ => (None, None, None),
    };
    let threshold = |unit: &UnitId| UnitThreshold { unit: *unit, threshold: policy.threshold(*unit) };
    let units = units.iter().map(threshold).collect();
    Units { method: Some(method.name().to_owned()), signal, norm, freezes, units }
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
        stopped_by: outcome.stopped.map(|reason| reason.name().to_owned()),
        seconds: outcome.seconds,
        validation_seconds: Some(outcome.validation_seconds),
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
