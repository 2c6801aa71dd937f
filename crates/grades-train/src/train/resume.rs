//! Back from a checkpoint to the state of a run.

use std::fs;
use std::path::Path;

use grades_models::parameters::{Parameter, Piece};
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, peft};
use grades_tensor::{DeviceRef, Tensor};

use super::checkpoint::{Progress, STATE, is_codes};
use super::error::TrainError;
use super::freeze::Kept;
use super::optimizer_state::State;
use super::options::TrainOptions;
use super::state::{TrainState, idle_until};

/// One of a checkpoint's files, or `None` where it had nothing to hold.
fn open(folder: &Path, name: &str) -> Result<Option<Checkpoint>, TrainError> {
    let path = folder.join(format!("{name}.safetensors"));
    // What else lies there, as one of before in a repository of the Hub, is not the checkpoint's.
    let is_its_own = path.exists() && grades_fs::lists(folder, &path);
    Ok(if is_its_own { Some(Checkpoint::open(&path)?) } else { None })
}

fn damaged(folder: &Path, what: &str) -> TrainError {
    TrainError::Other(format!("{}: the checkpoint {what}; resume from another one", folder.display()))
}

/// A tensor `name` of that shape.
fn load(
    folder: &Path,
    file: &Checkpoint,
    name: &str,
    device: DeviceRef,
    shape: [usize; 2],
) -> Result<Tensor, TrainError> {
    let values = file.load_f32(name)?;
    if values.len() != shape[0] * shape[1] {
        return Err(damaged(folder, &format!("does not fit the model at `{name}`")));
    }
    Ok(device.from_host(values, shape))
}

/// A tensor `name` of the shape and dtype of `like`.
fn load_like(folder: &Path, file: &Checkpoint, name: &str, like: &Tensor) -> Result<Tensor, TrainError> {
    if !is_codes(like) {
        return load(folder, file, name, like.device(), like.shape());
    }
    let codes = file.raw(name)?;
    if codes.len() != like.len() {
        return Err(damaged(folder, &format!("does not fit the model at `{name}`")));
    }
    let codes = codes.into_iter().map(f32::from).collect();
    Ok(like.device().from_host(codes, like.shape()).cast(like.dtype()))
}

/// A run's state after a checkpoint of a run with the same config, as if it had never been interrupted. A checkpoint of a
/// run without early stopping serves every policy that has asked for nothing up to its step: until then the two are one run.
///
/// # Errors
/// If the checkpoint is damaged, or of another model, config, optimizer or length of run.
pub fn resume(mut state: TrainState, folder: &Path, options: &TrainOptions) -> Result<TrainState, TrainError> {
    let progress = read_progress(folder, options)?;
    if progress.untied {
        state.untie();
    }
    restore_model(folder, &progress, &mut state)?;
    restore_optimizer(folder, &progress, &mut state)?;
    restore_kept(folder, &progress, &mut state)?;
    let mut policy = progress.policy;
    if let Some(file) = open(folder, "policy")? {
        for name in file.names() {
            policy.buffers.insert(name.to_owned(), file.load_f32(name)?);
        }
    }
    let shared =
        policy.memory.name() == "none" && idle_until(state.policy.as_ref(), &state.units, progress.ledger.steps);
    if !shared {
        state.policy.restore(policy)?;
    }
    if let (Some(best), Some(model)) = (progress.ledger.best, options.best_model)
        && best.metric != model.metric
    {
        return Err(TrainError::Other(format!(
            "{}: the best checkpoint of this run was chosen by {}, and this config says `metric_for_best_model: {}`; resume with the \
             config that the run began with",
            folder.display(),
            best.metric.name(),
            model.metric.name()
        )));
    }
    restore_average(folder, progress.average, progress.ledger.steps, &mut state, options)?;
    state.ledger = progress.ledger;
    Ok(state)
}

fn read_progress(folder: &Path, options: &TrainOptions) -> Result<Progress, TrainError> {
    let path = folder.join(STATE);
    let text = fs::read(&path).map_err(|source| TrainError::io(&path, source))?;
    let progress: Progress = serde_json::from_slice(&text)
        .map_err(|e| damaged(folder, &format!("has a state.json that is not one of this version ({e})")))?;
    let planned = options.schedule.total_steps;
    if progress.planned_steps != planned {
        return Err(TrainError::Other(format!(
            "{}: the checkpoint is of a run of {} steps, but this config plans {planned}; resume with the config that the \
             run began with",
            folder.display(),
            progress.planned_steps
        )));
    }
    if progress.rule != options.rule {
        return Err(TrainError::Other(format!(
            "{}: the checkpoint was made with {}, but this config says {}; resume with the optimizer that the run began \
             with",
            folder.display(),
            progress.rule,
            options.rule
        )));
    }
    Ok(progress)
}

/// The weights, what of them trains, and the best ones so far.
fn restore_model(folder: &Path, progress: &Progress, state: &mut TrainState) -> Result<(), TrainError> {
    let weights = open(folder, "weights")?.ok_or_else(|| damaged(folder, "has no weights.safetensors"))?;
    let parameters = state.model.parameters_mut();
    for parameter in parameters.iter_mut().filter(|parameter| !parameter.is_base()) {
        let (device, shape) = (parameter.value.device(), parameter.value.shape());
        parameter.value = load(folder, &weights, &parameter.name, device, shape)?;
    }
    parameters.set_trainable(|piece| Some(progress.trainable.contains(&piece.slot())));
    if let Some(file) = open(folder, "best")? {
        let own = parameters.iter().enumerate().map(|(index, p)| match p.is_base() {
            true => Ok(None),
            false => load(folder, &file, &index.to_string(), p.value.device(), p.value.shape()).map(Some),
        });
        state.best = Some(own.collect::<Result<_, TrainError>>()?);
    }
    Ok(())
}

/// Gives a model the weights of a checkpoint, which may be a model alone.
///
/// # Errors
/// If the checkpoint cannot be read, or is of another model.
pub(super) fn restore_weights(folder: &Path, model: &mut Decoder) -> Result<(), TrainError> {
    let weights = match open(folder, "weights")? {
        Some(weights) => weights,
        None if model.adapter().is_some() => Checkpoint::open(folder.join(peft::TENSORS))?,
        None => Checkpoint::open(folder)?,
    };
    let embedding = model.embedding_name().to_owned();
    for parameter in model.parameters_mut().iter_mut().filter(|parameter| !parameter.is_base()) {
        // A head that has parted from the embedding since then was the same matrix.
        let name = match weights.names().any(|name| name == parameter.name) {
            true => &parameter.name,
            false => &embedding,
        };
        let (device, shape) = (parameter.value.device(), parameter.value.shape());
        parameter.value = load(folder, &weights, name, device, shape)?;
    }
    Ok(())
}

fn restore_optimizer(folder: &Path, progress: &Progress, state: &mut TrainState) -> Result<(), TrainError> {
    let file = open(folder, "optimizer")?;
    for (&slot, &steps) in &progress.optimizer_steps {
        let (parameter, piece) = piece_of(folder, state, slot)?;
        let mut restored = State::fresh(progress.rule, parameter, piece);
        restored.set_steps(steps);
        for (k, buffer) in restored.buffers_mut().enumerate() {
            let file = file.as_ref().ok_or_else(|| damaged(folder, "has no optimizer.safetensors"))?;
            *buffer = load_like(folder, file, &format!("{slot}.{k}"), buffer)?;
        }
        state.optimizer.restore(slot, restored);
    }
    Ok(())
}

fn restore_kept(folder: &Path, progress: &Progress, state: &mut TrainState) -> Result<(), TrainError> {
    let Some(file) = open(folder, "kept")? else { return Ok(()) };
    for (&slot, norm) in &progress.kept_norm_bits {
        let (device, shape) = extent(folder, state, slot)?;
        let gradient = load(folder, &file, &format!("gradient.{slot}"), device, shape)?;
        state.freezing.previous.insert(slot, Kept { gradient, norm: norm.map(f64::from_bits) });
    }
    for name in file.names() {
        if let Some(slot) = name.strip_prefix("weight.").and_then(|slot| slot.parse().ok()) {
            let (device, shape) = extent(folder, state, slot)?;
            state.freezing.weights.insert(slot, load(folder, &file, name, device, shape)?);
        }
    }
    Ok(())
}

fn restore_average(
    folder: &Path,
    saved: Option<(u64, Vec<[f64; 2]>)>,
    steps: usize,
    state: &mut TrainState,
    options: &TrainOptions,
) -> Result<(), TrainError> {
    let Some((count, compared)) = saved else {
        // A run that kept one from here on alone would end elsewhere.
        let warmup = options.schedule.warmup_steps;
        return match &state.average {
            Some(average) if (1..=steps).any(|step| average.takes(step, warmup)) => {
                Err(damaged(folder, "is of a run without `weight_average`, which this config asks for"))
            }
            _ => Ok(()),
        };
    };
    if state.average.is_none() {
        return Err(damaged(folder, "is of a run with `weight_average`, which this config leaves out"));
    }
    let mut values = vec![None; state.model.parameters().slots()];
    if let Some(file) = open(folder, "average")? {
        for name in file.names() {
            let slot = name.parse().map_err(|_| damaged(folder, "is of another model"))?;
            let (device, shape) = extent(folder, state, slot)?;
            values[slot] = Some(load(folder, &file, name, device, shape)?);
        }
    }
    if let Some(average) = &mut state.average {
        (average.count, average.compared, average.values) = (count, compared, values);
    }
    Ok(())
}

/// The piece of a slot, and its parameter.
fn piece_of<'a>(folder: &Path, state: &'a TrainState, slot: usize) -> Result<(&'a Parameter, &'a Piece), TrainError> {
    let found = state.model.parameters().pieces().find(|(_, piece)| piece.slot() == slot);
    found.ok_or_else(|| damaged(folder, "is of another model"))
}

/// Where the piece of a slot is, and the shape of its gradient.
fn extent(folder: &Path, state: &TrainState, slot: usize) -> Result<(DeviceRef, [usize; 2]), TrainError> {
    let (parameter, piece) = piece_of(folder, state, slot)?;
    Ok((parameter.value.device(), parameter.extent(piece).1))
}
