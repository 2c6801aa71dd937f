use std::collections::BTreeMap;
use std::path::PathBuf;

use grades::{Cost, Flops};
use serde::{Deserialize, Serialize};

use super::task_scores::TaskScores;

/// `summary.json`, and what `grades train --json` prints: what a run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// The run's directory.
    pub run_dir: PathBuf,
    /// The trained model, in the Hugging Face layout; with `adapter: lora` the adapter, as PEFT stores it.
    pub model_dir: PathBuf,
    /// Steps made.
    pub steps: usize,
    /// Steps planned.
    pub planned_steps: usize,
    /// Why training ended before the planned steps ([`grades::StopReason::name`], or as another program calls it);
    /// `null` if it did not.
    pub stopped_by: Option<String>,
    /// Seconds of the training steps with validation.
    pub seconds: f64,
    /// Seconds of them spent on validation; `null` where that is not known.
    pub validation_seconds: Option<f64>,
    /// Seconds of them spent on measuring for early stopping.
    pub monitor_seconds: f64,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    /// Matrices that can freeze.
    pub units: usize,
    /// Matrices that are frozen at the end.
    pub frozen_units: usize,
    /// The learning rate that `learning_rate: auto` found; left out where it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The step of the checkpoint that the run ended with; left out where it ended with its last weights or their average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_step: Option<usize>,
    /// Mean training loss over all steps.
    pub train_loss: f64,
    /// Loss on the validation set at the end; `null` if there is none.
    pub val_loss: Option<f64>,
    /// The same by set, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_losses: Option<BTreeMap<String, f64>>,
    /// The scores of `eval_tasks` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_tasks: Option<TaskScores>,
    /// Seconds of answering prompts and of benchmarks while it trained, which `seconds` has not; left out where there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_seconds: Option<f64>,
    /// Operations of these, which no other number has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_flops: Option<u64>,
    /// Executed operations of training by kind.
    pub flops: Flops,
    /// Operations of validation before the end.
    pub validation_flops: u64,
    /// Operations of measuring and of the method itself.
    pub monitor_flops: u64,
    /// Most bytes that were kept from step to step for the method: gradients, weights, the best weights.
    pub monitor_bytes: u64,
    /// How often the method measured and validated, by its own count.
    pub checks: Cost,
    /// Most memory that the process held; `null` where the system does not say.
    pub peak_memory_bytes: Option<u64>,
}
