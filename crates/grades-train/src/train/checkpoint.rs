//! Checkpoints: all that a run needs to go on as if it had never been interrupted.
//!
//! A checkpoint is a folder `checkpoints/step-000120` of the run: `state.json`, and safetensors files with the weights
//! (`weights`), the optimizer's state (`optimizer`), what the policy compares with (`kept`), its own arrays (`policy`),
//! the best weights so far (`best`), and their average (`average`). It appears in one piece.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use grades::PolicyState;
use grades_fs::Staging;
use grades_models::parameters::{Parameter, Piece};
use grades_models::weights::Checkpoint;
use grades_tensor::{DeviceRef, Tensor};
use safetensors::serialize_to_file;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::freeze::Kept;
use super::ledger::Ledger;
use super::optimizer_state::State;
use super::options::TrainOptions;
use super::rule::Rule;
use super::state::{TrainState, idle_until};

/// The small part of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    /// Steps of the whole run.
    planned_steps: usize,
    /// What was counted.
    ledger: Ledger,
    /// The policy's memory, its arrays apart.
    policy: PolicyState,
    /// The rule that the optimizer's states are of.
    rule: Rule,
    /// Updates that each piece has had, where it has a state.
    optimizer_steps: BTreeMap<usize, u64>,
    /// How many values the average of the weights is of, and what a comparison of it came to.
    average: Option<(u64, Option<[f64; 2]>)>,
    /// Norms of the kept gradients, as bits, where they were measured.
    kept_norm_bits: BTreeMap<usize, Option<u64>>,
    /// Pieces that train, by slot.
    trainable: BTreeSet<usize>,
    /// Whether the head of a tied embedding has a matrix of its own by now.
    untied: bool,
}

/// f32 values, or codes of a byte, as safetensors writes them, one dimension for all: the shapes are the model's.
struct Flat<'a> {
    dtype: Dtype,
    shape: [usize; 1],
    values: Cow<'a, [f32]>,
}

impl<'a> Flat<'a> {
    fn new(values: impl Into<Cow<'a, [f32]>>) -> Self {
        let values = values.into();
        Self { dtype: Dtype::F32, shape: [values.len()], values }
    }

    fn of(tensor: &'a Tensor) -> Self {
        let dtype = if is_codes(tensor) { Dtype::U8 } else { Dtype::F32 };
        Self { dtype, ..Self::new(tensor.to_host()) }
    }
}

/// Whether a tensor is of an optimizer's codes.
fn is_codes(tensor: &Tensor) -> bool {
    tensor.dtype() == grades_tensor::Dtype::U8
}

impl View for Flat<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self.dtype {
            Dtype::U8 => self.values.iter().map(|code| *code as u8).collect(),
            _ => self.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.shape[0] * if self.dtype == Dtype::U8 { 1 } else { size_of::<f32>() }
    }
}

fn write<'a>(folder: &Path, name: &str, tensors: impl Iterator<Item = (String, Flat<'a>)>) -> Result<(), TrainError> {
    let path = folder.join(format!("{name}.safetensors"));
    let tensors: Vec<_> = tensors.collect();
    if tensors.is_empty() {
        return Ok(());
    }
    serialize_to_file(tensors, None, &path).map_err(|e| TrainError::io(&path, io::Error::other(e.to_string())))
}

/// One of a checkpoint's files, or `None` where it had nothing to hold.
fn open(folder: &Path, name: &str) -> Result<Option<Checkpoint>, TrainError> {
    let path = folder.join(format!("{name}.safetensors"));
    Ok(if path.exists() { Some(Checkpoint::open(&path)?) } else { None })
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

/// Writes a checkpoint of a run of `planned_steps` steps into `run` and returns its folder.
pub(super) fn save(run: &Path, state: &TrainState, planned_steps: usize) -> Result<PathBuf, TrainError> {
    let step = state.ledger.steps;
    let checkpoints = run.join("checkpoints");
    let folder = checkpoints.join(format!("step-{step:06}"));
    let staging = Staging::beside(&folder)?;
    let partial = staging.path();

    let parameters = state.model.parameters();
    // What lies under adapters is the base's, and stays there.
    let own = parameters.iter().filter(|parameter| !parameter.is_base());
    write(partial, "weights", own.map(|p| (p.name.clone(), Flat::of(&p.value))))?;
    let states = state.optimizer.states().iter().enumerate().filter_map(|(slot, state)| Some((slot, state.as_ref()?)));
    let buffers = states.clone().flat_map(|(slot, state)| {
        state.buffers().enumerate().map(move |(k, buffer)| (format!("{slot}.{k}"), Flat::of(buffer)))
    });
    write(partial, "optimizer", buffers)?;
    let freezing = &state.freezing;
    let gradients = freezing.previous.iter().map(|(i, kept)| (format!("gradient.{i}"), Flat::of(&kept.gradient)));
    let weights = freezing.weights.iter().map(|(i, weights)| (format!("weight.{i}"), Flat::of(weights)));
    write(partial, "kept", gradients.chain(weights))?;
    let mut policy = state.policy.state();
    let arrays = std::mem::take(&mut policy.buffers);
    write(partial, "policy", arrays.iter().map(|(name, values)| (name.clone(), Flat::new(values))))?;
    let best = state.best.iter().flatten().enumerate().filter_map(|(index, best)| Some((index, best.as_ref()?)));
    write(partial, "best", best.map(|(index, values)| (index.to_string(), Flat::of(values))))?;

    let averages = state.average.iter().flat_map(|average| average.values.iter().enumerate());
    let averages = averages.filter_map(|(slot, value)| Some((slot.to_string(), Flat::of(value.as_ref()?))));
    write(partial, "average", averages)?;

    let progress = Progress {
        planned_steps,
        ledger: state.ledger.clone(),
        policy,
        rule: state.optimizer.rule(),
        optimizer_steps: states.map(|(slot, state)| (slot, state.steps())).collect(),
        average: state.average.as_ref().map(|average| (average.count, average.compared)),
        kept_norm_bits: freezing.previous.iter().map(|(i, kept)| (*i, kept.norm.map(f64::to_bits))).collect(),
        trainable: parameters.pieces().filter(|(_, p)| p.is_trainable()).map(|(_, p)| p.slot()).collect(),
        untied: state.model.is_untied(),
    };
    let text = serde_json::to_vec_pretty(&progress).map_err(|e| TrainError::Other(e.to_string()))?;
    grades_fs::write(&partial.join("state.json"), text)?;
    staging.replace()?;
    Ok(folder)
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
    restore_average(folder, progress.average, progress.ledger.steps, &mut state, options)?;
    state.ledger = progress.ledger;
    Ok(state)
}

fn read_progress(folder: &Path, options: &TrainOptions) -> Result<Progress, TrainError> {
    let path = folder.join("state.json");
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
    saved: Option<(u64, Option<[f64; 2]>)>,
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
