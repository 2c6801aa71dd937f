//! Checkpoints: all that a run needs to go on as if it had never been interrupted.
//!
//! A checkpoint is a folder `checkpoints/step-000120` of the run: `state.json`, and safetensors files with the weights
//! (`weights`), the optimizer's state (`optimizer`), what the policy compares with (`kept`), its own arrays (`policy`),
//! and the best weights so far (`best`). It appears in one piece.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use burn::tensor::{Tensor, TensorData};
use grades::{Flops, PolicyState};
use grades_fs::Staging;
use grades_models::nn::Untied;
use grades_models::parameters::Place;
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, host};
use safetensors::serialize_to_file;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::freeze::{Freezing, Kept};
use super::optimizer::{Optimizer, State};

/// The small part of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The last step that was made.
    pub(super) step: usize,
    /// Steps of the whole run.
    pub(super) planned_steps: usize,
    /// Tokens that went through the model.
    pub(super) tokens: u64,
    /// Executed operations.
    pub(super) flops: Flops,
    /// Sum of the steps' losses, as the bits of an f64: a decimal number might come back as its neighbour.
    pub(super) loss_sum_bits: u64,
    /// Seconds so far: all, of validation, of monitoring.
    pub(super) seconds: [f64; 3],
    /// What checks have cost so far: operations of validation and of monitoring, most bytes kept.
    #[serde(default)]
    pub(super) checks: [u64; 3],
    /// The policy's memory, its arrays apart.
    pub(super) policy: PolicyState,
    /// Updates that each parameter has had, where it has a state.
    optimizer_steps: BTreeMap<usize, u64>,
    /// Norms of the kept gradients, as bits, where they were measured.
    kept_norm_bits: BTreeMap<usize, Option<u64>>,
    /// Parameters that train, by index.
    trainable: Vec<usize>,
    /// Whether the head of a tied embedding has a matrix of its own by now.
    #[serde(default)]
    untied: bool,
}

/// What a checkpoint is taken from and put back into.
pub(super) struct Parts<'a> {
    pub(super) model: &'a mut Decoder,
    pub(super) optimizer: &'a mut Optimizer,
    pub(super) freezing: &'a mut Freezing,
    pub(super) best: &'a mut Option<Vec<Vec<f32>>>,
}

impl Progress {
    /// The run's own figures; what the parts hold is added when they are saved.
    pub(super) fn new(step: usize, planned_steps: usize, policy: PolicyState) -> Self {
        Self {
            step,
            planned_steps,
            tokens: 0,
            flops: Flops::default(),
            loss_sum_bits: 0,
            seconds: [0.0; 3],
            checks: [0; 3],
            policy,
            optimizer_steps: BTreeMap::new(),
            kept_norm_bits: BTreeMap::new(),
            trainable: Vec::new(),
            untied: false,
        }
    }
}

/// f32 values as safetensors writes them, one dimension for all: the shapes are the model's.
struct Flat<'a> {
    shape: [usize; 1],
    values: Source<'a>,
}

enum Source<'a> {
    Device(&'a Tensor<2>),
    Host(&'a [f32]),
}

impl<'a> Flat<'a> {
    fn device(tensor: &'a Tensor<2>) -> Self {
        Self { shape: [tensor.shape().num_elements()], values: Source::Device(tensor) }
    }

    fn host(values: &'a [f32]) -> Self {
        Self { shape: [values.len()], values: Source::Host(values) }
    }
}

impl View for Flat<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Cow::Owned(match &self.values {
            Source::Host(values) => bytes(values),
            // What cannot be read has no bytes, which safetensors refuses to write.
            Source::Device(tensor) => host::read("checkpoint", tensor, bytes).unwrap_or_default(),
        })
    }

    fn data_len(&self) -> usize {
        self.shape[0] * size_of::<f32>()
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

/// Values of `name` that must be as many as `len`.
fn load(folder: &Path, file: &Checkpoint, name: &str, len: usize) -> Result<Vec<f32>, TrainError> {
    let values = file.load_f32(name)?;
    if values.len() == len { Ok(values) } else { Err(damaged(folder, &format!("does not fit the model at `{name}`"))) }
}

/// Writes a checkpoint into `run` and returns its folder.
pub(super) fn save(run: &Path, mut progress: Progress, parts: &Parts<'_>) -> Result<PathBuf, TrainError> {
    let folder = run.join("checkpoints").join(format!("step-{:06}", progress.step));
    grades_fs::remove_leftovers(&folder)?;
    let staging = Staging::beside(&folder)?;
    let partial = staging.path();

    let parameters = parts.model.parameters();
    // What lies under adapters is the base's, and stays there.
    let own = parameters.iter().filter(|p| p.place != Place::Base);
    write(partial, "weights", own.map(|p| (p.name.clone(), Flat::device(&p.value))))?;
    let states =
        parts.optimizer.states().iter().enumerate().filter_map(|(index, state)| Some((index, state.as_ref()?)));
    progress.optimizer_steps = states.clone().map(|(index, state)| (index, state.steps)).collect();
    let buffers = states.flat_map(|(index, state)| {
        state.buffers.iter().enumerate().map(move |(k, buffer)| (format!("{index}.{k}"), Flat::host(buffer)))
    });
    write(partial, "optimizer", buffers)?;
    let freezing = &parts.freezing;
    let gradients = freezing.previous.iter().map(|(i, kept)| (format!("gradient.{i}"), Flat::device(&kept.gradient)));
    let weights = freezing.weights.iter().map(|(i, weights)| (format!("weight.{i}"), Flat::host(weights)));
    write(partial, "kept", gradients.chain(weights))?;
    progress.kept_norm_bits = freezing.previous.iter().map(|(i, kept)| (*i, kept.norm.map(f64::to_bits))).collect();
    progress.untied = parts.model.is_untied();
    progress.trainable = parameters.iter().enumerate().filter(|(_, p)| p.is_trainable()).map(|(i, _)| i).collect();
    let arrays = std::mem::take(&mut progress.policy.buffers);
    write(partial, "policy", arrays.iter().map(|(name, values)| (name.clone(), Flat::host(values))))?;
    let best = parts.best.iter().flatten().enumerate().filter(|(_, values)| !values.is_empty());
    write(partial, "best", best.map(|(index, values)| (index.to_string(), Flat::host(values))))?;

    let state = serde_json::to_vec_pretty(&progress).map_err(|e| TrainError::Other(e.to_string()))?;
    grades_fs::write(&partial.join("state.json"), state)?;
    staging.replace()?;
    Ok(folder)
}

/// Puts a checkpoint back. The policy's memory and the figures are returned for the caller.
pub(super) fn restore(folder: &Path, parts: Parts<'_>) -> Result<Progress, TrainError> {
    let path = folder.join("state.json");
    let text = fs::read(&path).map_err(|source| TrainError::io(&path, source))?;
    let mut progress: Progress = serde_json::from_slice(&text)
        .map_err(|e| damaged(folder, &format!("has a state.json that is not one ({e})")))?;

    if progress.untied
        && let Some(Untied { input, head }) = parts.model.untie()?
    {
        parts.optimizer.hand_over(input, head);
    }
    let weights = open(folder, "weights")?.ok_or_else(|| damaged(folder, "has no weights.safetensors"))?;
    for (index, parameter) in parts.model.parameters_mut().iter_mut().enumerate() {
        if parameter.place == Place::Base {
            continue;
        }
        let values = load(folder, &weights, &parameter.name, parameter.len())?;
        host::update(&parameter.name, &mut parameter.value, |old| old.copy_from_slice(&values))?;
        parameter.set_trainable(progress.trainable.contains(&index));
    }
    let lengths: Vec<usize> = parts.model.parameters().iter().map(|p| p.len()).collect();
    let length = |index: usize| lengths.get(index).copied().ok_or_else(|| damaged(folder, "is of another model"));
    let optimizer = open(folder, "optimizer")?;
    for (&index, &steps) in &progress.optimizer_steps {
        let mut state = State { steps, buffers: Vec::new() };
        for k in 0.. {
            let name = format!("{index}.{k}");
            let Some(file) = optimizer.as_ref().filter(|file| file.contains(&name)) else { break };
            state.buffers.push(load(folder, file, &name, length(index)?)?);
        }
        parts.optimizer.restore(index, state);
    }
    if let Some(file) = open(folder, "kept")? {
        for (&index, norm) in &progress.kept_norm_bits {
            let values = load(folder, &file, &format!("gradient.{index}"), length(index)?)?;
            let value = &parts.model.parameters()[index].value;
            let gradient = Tensor::from_data(TensorData::new(values, value.dims()), &value.device()).inner();
            parts.freezing.previous.insert(index, Kept { gradient, norm: norm.map(f64::from_bits) });
        }
        for name in file.names() {
            if let Some(index) = name.strip_prefix("weight.").and_then(|index| index.parse().ok()) {
                parts.freezing.weights.insert(index, load(folder, &file, name, length(index)?)?);
            }
        }
    }
    if let Some(file) = open(folder, "policy")? {
        for name in file.names() {
            progress.policy.buffers.insert(name.to_owned(), file.load_f32(name)?);
        }
    }
    if let Some(file) = open(folder, "best")? {
        let own = parts.model.parameters().iter().map(|p| p.place != Place::Base);
        let all = lengths.iter().zip(own).enumerate().map(|(index, (&len, own))| {
            if own { load(folder, &file, &index.to_string(), len) } else { Ok(Vec::new()) }
        });
        *parts.best = Some(all.collect::<Result<_, _>>()?);
    }
    Ok(progress)
}
