//! Checkpoints: all that a run needs to go on as if it had never been interrupted.
//!
//! A checkpoint is a folder `checkpoints/step-000120` of the run: `state.json`, and safetensors files with the weights
//! (`weights`), the optimizer's state (`optimizer`), what the policy compares with (`kept`), its own arrays (`policy`),
//! the best weights so far (`best`), and their average (`average`), and the checksums of all (`checksums.txt`). It appears
//! in one piece.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use grades::PolicyState;
use grades_fs::{LargeFile, Staging, Sum};
use grades_models::weights::safetensors_header;
use grades_tensor::Tensor;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::ledger::Ledger;
use super::rule::Rule;
use super::state::TrainState;

/// The file of [`Progress`].
pub(super) const STATE: &str = "state.json";

/// The small part of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps of the whole run.
    pub(super) planned_steps: usize,
    /// What was counted.
    pub(super) ledger: Ledger,
    /// The policy's memory, its arrays apart.
    pub(super) policy: PolicyState,
    /// The rule that the optimizer's states are of.
    pub(super) rule: Rule,
    /// Updates that each piece has had, where it has a state.
    pub(super) optimizer_steps: BTreeMap<usize, u64>,
    /// How many values the average of the weights is of, and what comparisons of it came to.
    pub(super) average: Option<(u64, Vec<[f64; 2]>)>,
    /// Norms of the kept gradients, as bits, where they were measured.
    pub(super) kept_norm_bits: BTreeMap<usize, Option<u64>>,
    /// Pieces that train, by slot.
    pub(super) trainable: BTreeSet<usize>,
    /// Whether the head of a tied embedding has a matrix of its own by now.
    pub(super) untied: bool,
}

/// A tensor of a checkpoint, one dimension for all: the shapes are the model's.
enum Saved {
    /// f32 values or codes of a byte, in the run's own storage: what the run changes from here on, it copies first.
    Tensor(Tensor),
    Values(Vec<f32>),
}

impl From<&Tensor> for Saved {
    fn from(tensor: &Tensor) -> Self {
        Self::Tensor(tensor.clone())
    }
}

impl From<Vec<f32>> for Saved {
    fn from(values: Vec<f32>) -> Self {
        Self::Values(values)
    }
}

/// Whether a tensor is of an optimizer's codes.
pub(super) fn is_codes(tensor: &Tensor) -> bool {
    tensor.dtype() == grades_tensor::Dtype::U8
}

/// The bytes of values, the lowest first.
fn bytes(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

impl Saved {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Tensor(tensor) if is_codes(tensor) => Dtype::U8,
            _ => Dtype::F32,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.len(),
            Self::Values(values) => values.len(),
        }
    }

    /// Without a copy where the run's storage holds the same bytes: a thread beside the steps has better things to do.
    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Tensor(tensor) if is_codes(tensor) => {
                Cow::Owned(tensor.to_host().iter().map(|code| *code as u8).collect())
            }
            Self::Tensor(tensor) => match tensor.to_host() {
                Cow::Borrowed(values) => bytes(values),
                Cow::Owned(values) => Cow::Owned(bytes(&values).into_owned()),
            },
            Self::Values(values) => bytes(values),
        }
    }
}

/// Writes a safetensors file, past the system's pages: nothing reads it before the run has gone on. Each tensor is let go as soon as it is written,
/// so that the next update finds as few as possible that it must copy.
fn write_tensors(path: &Path, mut tensors: Vec<(String, Saved)>) -> Result<Sum, TrainError> {
    // Where a value begins at a multiple of its size, a reader can use it as it lies there.
    tensors.sort_by_key(|(_, saved)| saved.dtype() == Dtype::U8);
    let infos = tensors.iter().map(|(name, saved)| (name.clone(), saved.dtype(), vec![saved.len()]));
    let io = |error| TrainError::io(path, error);
    let header = safetensors_header(infos, None).map_err(|error| io(io::Error::other(error)))?;
    let mut file = LargeFile::create(path)?;
    file.write_all(&header).map_err(io)?;
    for (_, saved) in tensors {
        file.write_all(&saved.bytes()).map_err(io)?;
    }
    file.finish().map_err(io)
}

/// The folder of a run's checkpoints.
pub(super) const FOLDER: &str = "checkpoints";

/// The name of the checkpoint after `step`.
pub(super) fn name(step: usize) -> String {
    format!("step-{step:06}")
}

/// Its folder in the run directory `run`.
pub(super) fn folder(run: &Path, step: usize) -> PathBuf {
    run.join(FOLDER).join(name(step))
}

/// What a checkpoint will hold. Taking it costs no copy, and it can be written while the run goes on.
pub(super) struct Snapshot {
    step: usize,
    files: Vec<(&'static str, Vec<(String, Saved)>)>,
    progress: Vec<u8>,
}

impl Snapshot {
    /// The state of a run of `planned_steps` steps between two of them.
    pub(super) fn of(state: &TrainState, planned_steps: usize) -> Result<Self, TrainError> {
        let parameters = state.model.parameters();
        // What lies under adapters is the base's, and stays there.
        let own = parameters.iter().filter(|parameter| !parameter.is_base());
        let weights = own.map(|p| (p.name.clone(), Saved::from(&p.value))).collect();

        let states = state.optimizer.states().iter().enumerate().filter_map(|(slot, s)| Some((slot, s.as_ref()?)));
        let buffers = states.clone().flat_map(|(slot, state)| {
            state.buffers().enumerate().map(move |(k, buffer)| (format!("{slot}.{k}"), Saved::from(buffer)))
        });

        let freezing = &state.freezing;
        let gradients = freezing.previous.iter().map(|(i, kept)| (format!("gradient.{i}"), (&kept.gradient).into()));
        let moved = freezing.weights.iter().map(|(i, weights)| (format!("weight.{i}"), weights.into()));

        let mut policy = state.policy.state();
        let arrays = std::mem::take(&mut policy.buffers);
        let arrays = arrays.into_iter().map(|(name, values)| (name, Saved::from(values))).collect();

        let best = state.best.iter().flatten().enumerate();
        let best = best.filter_map(|(index, best)| Some((index.to_string(), best.as_ref()?.into()))).collect();

        let averages = state.average.iter().flat_map(|average| average.values.iter().enumerate());
        let averages = averages.filter_map(|(slot, value)| Some((slot.to_string(), value.as_ref()?.into()))).collect();

        let progress = Progress {
            planned_steps,
            ledger: state.ledger.clone(),
            policy,
            rule: state.optimizer.rule(),
            optimizer_steps: states.map(|(slot, state)| (slot, state.steps())).collect(),
            average: state.average.as_ref().map(|average| (average.count, average.compared.clone())),
            kept_norm_bits: freezing.previous.iter().map(|(i, kept)| (*i, kept.norm.map(f64::to_bits))).collect(),
            trainable: parameters.pieces().filter(|(_, p)| p.is_trainable()).map(|(_, p)| p.slot()).collect(),
            untied: state.model.is_untied(),
        };
        Ok(Self {
            step: state.ledger.steps,
            files: vec![
                ("weights", weights),
                ("optimizer", buffers.collect()),
                ("kept", gradients.chain(moved).collect()),
                ("policy", arrays),
                ("best", best),
                ("average", averages),
            ],
            progress: serde_json::to_vec_pretty(&progress).map_err(|e| TrainError::Other(e.to_string()))?,
        })
    }

    /// The step after which the run goes on.
    pub(super) fn step(&self) -> usize {
        self.step
    }

    /// Its size on the disk, in bytes, but for names.
    pub(super) fn bytes(&self) -> u64 {
        let all = self.files.iter().flat_map(|(_, tensors)| tensors);
        all.map(|(_, saved)| (saved.len() * saved.dtype().bitsize() / 8) as u64).sum()
    }

    /// Writes it into the run directory `run`.
    pub(super) fn write(self, run: &Path) -> Result<(), TrainError> {
        let staging = Staging::beside(&folder(run, self.step))?;
        let mut sums = Vec::new();
        for (name, tensors) in self.files.into_iter().filter(|(_, tensors)| !tensors.is_empty()) {
            let name = format!("{name}.safetensors");
            let sum = write_tensors(&staging.path().join(&name), tensors)?;
            sums.push((name, sum));
        }
        grades_fs::write(&staging.path().join(STATE), self.progress)?;
        grades_fs::seal_with(staging.path(), &sums)?;
        Ok(staging.replace()?)
    }
}
