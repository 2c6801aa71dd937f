//! A whole run: config → model → data → trainer → run directory.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use grades::{EarlyStopping, Flops, Policy, UnitId};
use grades_models::parameters::{Groups, Parameter};
use grades_models::source::LoadOptions;
use grades_models::tokenizer::TEMPLATE_FILE;
use grades_models::weights::{SaveDtype, SaveOptions};
use grades_models::{Decoder, LoraConfig, peft, saving};
use grades_report::record::{self, Environment, Event, Summary, UnitThreshold, Units};
use grades_tensor::device;
use serde::Serialize;
use twox_hash::XxHash3_64;

use super::checkpoints;
use super::dry_run::DryRun;
use super::error::TrainError;
use super::evaluation::Evaluation;
use super::freeze::units;
use super::interrupt::Interrupt;
use super::memory;
use super::model_vision;
use super::options::TrainOptions;
use super::preference::Objective;
use super::prepared::Prepared;
use super::preview::{SHOWN, show};
use super::pushing::Pusher;
use super::rate_search;
use super::reading::Reader;
use super::resume::resume;
use super::run_dir::RunDir;
use super::start::Start;
use super::state::TrainState;
use super::trainer::{COMPARED, Outcome, Trained, Trainer};
use super::vision_cache::VisionCache;
use crate::card;
use crate::config::{Config, LearningRate};
use crate::data::{DataError, Feed};

/// Runs a config to the end and leaves everything in its directory.
///
/// # Errors
/// One sentence about the file, key or row that is wrong; nothing that existed is changed.
pub fn run(config: &Config, progress: bool) -> Result<Summary, TrainError> {
    run_until(config, progress, &Interrupt::default())
}

/// The same until `interrupt` asks for the end, which comes after a step, with a checkpoint.
///
/// # Errors
/// As [`run`]; and [`TrainError::Interrupted`].
pub fn run_until(config: &Config, progress: bool, interrupt: &Interrupt) -> Result<Summary, TrainError> {
    let start = match Start::of(config)? {
        Start::Ended(summary) => return Ok(*summary),
        start => start,
    };
    // Data first: a mistake in a row shows before the model is loaded.
    let prepared = Prepared::of(config)?;
    let (config, planned_steps) = (&prepared.config, prepared.planned_steps);
    let plan = DryRun::of(&prepared)?;
    plan.check_memory(config)?;
    plan.disk.check(&config.output_dir)?;
    let evaluation = Evaluation::of(&prepared)?;
    let early_stopping = prepared.early_stopping();
    let base = load(&prepared, &early_stopping)?;
    let (objective, asked) = objective(&prepared, &base)?;
    if let Some((_, seconds)) = asked.filter(|_| progress) {
        let _ = writeln!(io::stderr(), "what the model makes of all answers before its first step: {seconds:.1} s");
    }
    let model = adapted(base, config)?;
    let units = units(&model);
    let policy = early_stopping.build(&units, planned_steps)?;
    let mut options = options(config, planned_steps, prepared.epoch_steps());
    let thresholds = thresholds(&early_stopping, policy.as_ref(), &units);
    let mut environment = environment(&prepared, &model, units.len());
    environment.planned_memory_bytes = Some(plan.memory.peak);
    let mut state = TrainState::new(model, policy, &options);
    // In a checkpoint they are counted already.
    if let Some((flops, seconds)) = asked {
        state.ledger.flops += flops;
        state.ledger.seconds += seconds;
    }
    if let Start::Checkpoint { checkpoint, .. } = &start {
        state = resume(state, checkpoint, &options)?;
        if config.learning_rate == LearningRate::Auto && state.ledger.learning_rate.is_none() {
            return Err(TrainError::Other(format!(
                "{}: the checkpoint is of a run whose learning rate was given; give the same one in place of \
                 `learning_rate: auto`",
                checkpoint.display()
            )));
        }
    }
    // Of a run that this one goes on from elsewhere the best checkpoint comes along.
    let best = match (&start, state.ledger.best) {
        (Start::Checkpoint { checkpoint, in_place: false }, Some(best)) if config.load_best_model_at_end => {
            Some(checkpoints::beside(checkpoint, best.step)?)
        }
        _ => None,
    };
    let resumed = matches!(start, Start::Checkpoint { .. }).then_some(state.ledger.steps);
    // Only now, so that a mistake in the config, the data, the model or the checkpoint leaves nothing behind.
    let mut dir = match start.is_in_place() {
        true => RunDir::resume(&config.output_dir, resumed)?,
        false => RunDir::create(&config.output_dir)?,
    };
    if let Some(best) = best {
        checkpoints::adopt(&best, dir.path())?;
    }
    if let Some(line) = prepared.source.decoded(config).filter(|_| progress) {
        let _ = writeln!(io::stderr(), "{line}");
    }
    dir.report_to(config, resumed)?;
    // A run that goes on in its own directory keeps what it began with.
    if !dir.path().join(record::CONFIG).exists() {
        dir.write(record::CONFIG, config.to_yaml().map_err(|e| TrainError::Other(e.to_string()))?.as_bytes())?;
        dir.write(record::ENVIRONMENT, &pretty(&environment)?)?;
        dir.write(record::UNITS, &pretty(&thresholds)?)?;
        if let Some(vision) = prepared.vision.as_deref() {
            let samples = prepared.feed.samples();
            let shown = show(&samples[..samples.len().min(SHOWN)], &prepared.tokenizer, Some(vision))?;
            dir.write(record::SAMPLES, &lines(&shown)?)?;
        }
    }

    let cache = vision_cache(&prepared, dir.path());
    let (mut feed, mut reader) = (prepared.feed.clone(), Reader::new(prepared.vision.clone(), cache));
    if config.learning_rate == LearningRate::Auto {
        options.schedule.learning_rate = match state.ledger.learning_rate {
            Some(rate) => rate.0,
            None => {
                let first = if config.adapter.is_some() { FIRST_RATE_OF_ADAPTERS } else { FIRST_RATE };
                let data = (&mut feed, &mut reader, &objective);
                let (rate, found) = rate_search::find(&mut state, data, &options, first)?;
                if progress {
                    let _ = writeln!(io::stderr(), "{found}");
                }
                dir.event(&Event::Run(found))?;
                rate
            }
        };
    }
    let pusher = Pusher::of(config, dir.path());
    let trainer = Trainer::new(state, (feed, reader), &prepared.validation, options, &mut dir);
    let save_model = |model: &Decoder, folder: &Path| save(model, &prepared, folder);
    let trainer =
        trainer.learning(objective).until(interrupt.clone()).saving_by(&save_model).asking(evaluation).pushing(pusher);
    let trainer = if progress { trainer.with_progress() } else { trainer };
    let Trained { mut model, outcome, left, averaged } = trainer.train()?;
    save(&model, &prepared, &trained_folder(&dir, &model))?;
    let summary = summary(&dir, &model, &units, &outcome, planned_steps);
    if let Some(mut left) = left.filter(|_| config.save_both_averages) {
        left.swap(model.parameters_mut());
        let mut folder = trained_folder(&dir, &model).into_os_string();
        folder.push(if averaged { "-weights" } else { "-average" });
        save(&model, &prepared, Path::new(&folder))?;
    }
    // What only this run would have used.
    match fs::remove_file(dir.path().join(FEATURES)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(TrainError::io(dir.path(), source)),
        _ => {}
    }
    dir.logs()?;
    dir.end_trackers()?;
    dir.write(record::SUMMARY, &pretty(&summary)?)?;
    card::write(dir.path(), &summary.model_dir)?;
    grades_report::write_into(dir.path())?;
    Ok(summary)
}

/// The file of what a vision tower makes of pictures, in the run's directory.
const FEATURES: &str = "vision-features";

/// What is kept of pictures.
fn vision_cache(prepared: &Prepared, run: &Path) -> VisionCache {
    let (config, Some(vision)) = (&prepared.config, &prepared.vision) else { return VisionCache::off() };
    let precision = config.precision.resolve().name();
    let context = format!("{} {:?} {precision}", prepared.source.config(), vision.processor);
    let file = match &config.vision_cache_dir {
        None => run.join(FEATURES),
        // Of each model its own.
        Some(folder) => folder.join(format!("{FEATURES}-{:016x}", XxHash3_64::oneshot(context.as_bytes()))),
    };
    VisionCache::new(config.vision_cache_options(), file, context.as_bytes())
}

/// Where the search of `learning_rate: auto` begins: at what often serves, from where it finds others as well.
const FIRST_RATE: f64 = 1e-4;
/// The same with adapters.
const FIRST_RATE_OF_ADAPTERS: f64 = 4e-4;

/// What a run learns. Preferences are compared with what the model makes of their answers before it trains; with adapters that
/// is the model without them, also of a run that goes on from a checkpoint. With what it took.
///
/// # Errors
/// The answers cannot be read.
pub(super) fn objective(prepared: &Prepared, base: &Decoder) -> Result<(Objective, Option<(Flops, f64)>), DataError> {
    let mut objective = prepared.objective.clone();
    let (Objective::Preference(preferences), Feed::Whole(loader)) = (&mut objective, &prepared.feed) else {
        return Ok((objective, None));
    };
    // An average is compared with the weights over some steps more.
    let steps = prepared.planned_steps + COMPARED;
    let asked = preferences.ask(base, &mut loader.clone(), steps, &prepared.validation.batches)?;
    Ok((objective, asked))
}

/// The model of a run, before it gets adapters.
pub(super) fn load(prepared: &Prepared, early_stopping: &EarlyStopping) -> Result<Decoder, TrainError> {
    let config = &prepared.config;
    let device = device(&config.device).map_err(|error| TrainError::Other(error.to_string()))?;
    let split_fused = early_stopping.split_fused();
    // Beside adapters nothing of the model itself trains.
    let fixed = if config.adapter.is_some() { Groups::ALL } else { Groups::of(&config.held()) };
    let options = LoadOptions { split_fused, ..LoadOptions::new(device).in_4bit(config.load_in_4bit).fixed(fixed) };
    let mut model = prepared.source.load(options)?;
    if let Some(key) = config.key_of_pictures().filter(|_| model.vision().is_none()) {
        return Err(TrainError::Other(format!(
            "`{key}` is of models that read pictures, and this one reads none; remove it"
        )));
    }
    model.hold(&config.held());
    model.set_dtype(config.precision.resolve());
    Ok(model)
}

/// The same with adapters, where a run has any.
pub(super) fn adapted(model: Decoder, config: &Config) -> Result<Decoder, TrainError> {
    match config.lora() {
        Some(lora) => Ok(model.with_adapter(lora, &LoraConfig::initial(config.seed))?),
        None => Ok(model),
    }
}

fn environment(prepared: &Prepared, model: &Decoder, units: usize) -> Environment {
    let count = |parameters: &mut dyn Iterator<Item = &Parameter>| parameters.map(Parameter::len).sum();
    Environment {
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        commit: option_env!("GRADES_COMMIT").map(str::to_owned),
        operating_system: Some(std::env::consts::OS.to_owned()),
        architecture: Some(std::env::consts::ARCH.to_owned()),
        processor: memory::processor(),
        instructions: Some(grades_kernels::instructions().to_owned()),
        threads: Some(grades_kernels::threads()),
        precision: Some(model.dtype().name().to_owned()),
        samples: Some(prepared.training_samples).filter(|_| !prepared.config.streaming),
        validation_samples: Some(prepared.validation.samples),
        dropped_samples: Some(prepared.dropped_samples),
        truncated_samples: Some(prepared.truncated_samples),
        parameters: Some(count(&mut model.parameters().iter())),
        trainable_parameters: Some(count(&mut model.parameters().iter().filter(|p| !p.is_base()))),
        model_bytes: Some(model.parameters().iter().map(|p| p.bytes() as u64).sum()),
        units: Some(units),
        planned_steps: Some(prepared.planned_steps),
        ..Environment::default()
    }
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

/// The options of the training loop.
pub(super) fn options(config: &Config, planned_steps: usize, steps_per_epoch: usize) -> TrainOptions {
    TrainOptions {
        schedule: config.schedule(planned_steps),
        rule: config.rule(),
        weight_decay: config.weight_decay,
        loraplus_lr_ratio: config.loraplus_lr_ratio.unwrap_or(1.0),
        embedding_lr_ratio: config.embedding_lr_ratio(),
        picture_lr_ratios: config.picture_lr_ratios(),
        max_grad_norm: Some(config.max_grad_norm).filter(|&norm| norm > 0.0),
        seed: config.seed,
        neftune_noise_alpha: config.neftune_noise_alpha,
        fold_frozen: config.fold_frozen,
        gradient_checkpointing: config.gradient_checkpointing,
        weight_average: config.weight_average(),
        prefix_cache: config.prefix_cache_options(),
        eval_steps: config.validates_every(steps_per_epoch, planned_steps),
        saves: config.saves(steps_per_epoch),
        save_only_model: config.save_only_model,
        best_model: config.best_model(),
        save_total_limit: config.save_total_limit,
        on_nonfinite: config.on_nonfinite,
        trace: matches!(&config.early_stopping, EarlyStopping::Grades(options) if options.trace),
        logging_steps: config.logging_steps,
    }
}

/// Where the model, or with adapters the adapter, of a run goes.
fn trained_folder(dir: &RunDir, model: &Decoder) -> PathBuf {
    if model.adapter().is_some() { dir.adapter() } else { dir.model() }
}

fn save(model: &Decoder, prepared: &Prepared, folder: &Path) -> Result<(), TrainError> {
    let Prepared { config, source, tokenizer, .. } = prepared;
    if model.adapter().is_some() {
        peft::save(folder, model, config.model.checkpoint())?;
        // The base has another one.
        return match tokenizer.chat_template().filter(|_| config.chooses_template()) {
            Some(template) => Ok(grades_fs::create(&folder.join(TEMPLATE_FILE), template)?),
            None => Ok(()),
        };
    }
    let options =
        SaveOptions { dtype: SaveDtype::F32, generation_config: source.generation_config(), ..SaveOptions::default() };
    saving::save(folder, model, source.config(), &options)?;
    tokenizer.save(folder)?;
    if let Some(processor) = source.processor() {
        return model_vision::write_processor(processor, folder);
    }
    match &prepared.model_folder {
        Some(from) if prepared.vision.is_some() => model_vision::copy_processor(from, folder),
        _ => Ok(()),
    }
}

fn summary(dir: &RunDir, model: &Decoder, units: &[UnitId], outcome: &Outcome, planned_steps: usize) -> Summary {
    let trains = |unit: &UnitId| {
        let mut of = model.parameters().pieces().filter(|(_, piece)| piece.place.unit() == Some(*unit));
        of.any(|(_, piece)| piece.is_trainable())
    };
    let ledger = &outcome.ledger;
    Summary {
        run_dir: dir.path().into(),
        model_dir: trained_folder(dir, model),
        steps: ledger.steps,
        planned_steps,
        stopped_by: outcome.stopped.map(|reason| reason.name().to_owned()),
        seconds: ledger.seconds,
        validation_seconds: Some(ledger.validation_seconds),
        monitor_seconds: ledger.monitor_seconds,
        tokens: ledger.tokens,
        frozen_units: units.iter().filter(|unit| !trains(unit)).count(),
        units: units.len(),
        learning_rate: ledger.learning_rate.map(|rate| rate.0),
        best_step: outcome.best_step,
        train_loss: ledger.mean_loss(),
        val_loss: outcome.val_loss,
        val_losses: outcome.val_losses.clone(),
        eval_tasks: outcome.eval_tasks.clone(),
        evaluation_seconds: Some(ledger.evaluation_seconds).filter(|seconds| *seconds > 0.0),
        evaluation_flops: Some(ledger.evaluation_flops).filter(|flops| *flops > 0),
        flops: ledger.flops,
        validation_flops: ledger.validation_flops,
        monitor_flops: ledger.monitor_flops,
        monitor_bytes: ledger.monitor_bytes,
        checks: outcome.checks,
        peak_memory_bytes: memory::peak(),
    }
}

fn lines(values: &[impl Serialize]) -> Result<Vec<u8>, TrainError> {
    let mut text = Vec::new();
    for value in values {
        text.extend(serde_json::to_vec(value).map_err(|e| TrainError::Other(e.to_string()))?);
        text.push(b'\n');
    }
    Ok(text)
}

fn pretty(value: &impl Serialize) -> Result<Vec<u8>, TrainError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| TrainError::Other(e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}
