use std::collections::BTreeMap;

use grades::Flops;
use serde::{Deserialize, Serialize};

use super::rewards::{AnswerLogps, Rewards};
use super::task_scores::TaskScores;

/// One step of the optimizer: a line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// The step, from 1.
    pub step: usize,
    /// The training loss per predicted token; with preferences per row.
    pub loss: Option<f64>,
    /// The learning rate.
    pub learning_rate: f64,
    /// The Frobenius norm of all gradients together, before clipping.
    pub gradient_norm: Option<f64>,
    /// Tokens so far.
    pub tokens: u64,
    /// Seconds so far, with validation.
    pub seconds: f64,
    /// Seconds of this step, without validation.
    pub step_seconds: f64,
    /// Seconds of them spent on measuring.
    pub monitor_seconds: f64,
    /// Seconds of them spent on waiting for data: making batches, and decoding pictures that were not there in time.
    pub data_seconds: f64,
    /// Matrices that are frozen after it.
    pub frozen_units: usize,
    /// Operations of this step.
    pub flops: StepFlops,
    /// Bytes of the optimizer's states.
    pub optimizer_bytes: u64,
    /// Bytes of gradients and weights kept for measuring.
    pub kept_bytes: u64,
    /// Bytes of the outputs of frozen layers that are kept, where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_cache_bytes: Option<u64>,
    /// Bytes of what is kept of pictures, where a vision tower reads some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_cache_bytes: Option<u64>,
    /// Pictures of the step, where a vision tower reads some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pictures: Option<u64>,
    /// Those of them of which nothing was known: they were decoded, and the whole tower read them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computed_pictures: Option<u64>,
    /// Memory of the process, where the system says it.
    pub resident_bytes: Option<u64>,
    /// Most memory of the process during this step, where the system says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// What the answers of preferences are worth, where a run learns from them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Rewards>,
    /// Their log-probabilities: of whole answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logps: Option<AnswerLogps>,
    /// How far the model has moved away from its reference, as KTO estimates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// What the answers of the validation set are worth, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_rewards: Option<Rewards>,
    /// The loss on the validation set, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// The same by set, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_losses: Option<BTreeMap<String, f64>>,
    /// The same of the average of the weights, where one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_val_loss: Option<f64>,
    /// The scores of `eval_tasks`, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_tasks: Option<TaskScores>,
    /// Seconds of answering prompts and of benchmarks after it, which no other number has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_seconds: Option<f64>,
}

/// The operations of a step: those executed by kind, and those that frozen matrices and kept outputs saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFlops {
    /// What was executed.
    #[serde(flatten)]
    pub executed: Flops,
    /// What was saved, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
}
