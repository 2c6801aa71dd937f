use std::fmt;
use std::path::PathBuf;

use grades::UnitId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What happened: a line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// What the method decided.
    Decision(grades::Event),
    /// What the run itself did.
    Run(RunEvent),
    /// What another program tells; the report shows it as it is.
    Other(Map<String, Value>),
}

/// What a run does beside what its method decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// It wrote a checkpoint.
    Checkpoint {
        /// The step after which it goes on.
        step: usize,
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// A checkpoint could not be written.
    CheckpointFailed {
        /// The step at which that was known.
        step: usize,
        /// Why.
        reason: String,
    },
    /// The Hub did not get what was saved; training goes on.
    UploadFailed {
        /// The step at which that was known.
        step: usize,
        /// Why.
        reason: String,
    },
    /// A step changed nothing, as its loss or gradients were not finite.
    StepSkipped {
        /// The step.
        step: usize,
        /// What was not finite.
        reason: String,
    },
    /// The loss of a step is far above that of the steps before.
    LossSpike {
        /// The step.
        step: usize,
        /// How far.
        reason: String,
    },
    /// Outputs of frozen layers are not kept any more.
    PrefixCacheOff {
        /// The step.
        step: usize,
        /// Why.
        reason: String,
    },
    /// What a vision tower makes of pictures is not kept any more.
    VisionCacheOff {
        /// The step.
        step: usize,
        /// Why.
        reason: String,
    },
    /// The model answered prompts of the validation data.
    Generated {
        /// The step after which it did.
        step: usize,
        /// How many answers.
        samples: usize,
        /// The file of the run's directory that holds them.
        path: PathBuf,
    },
    /// Prompts could not be answered, or benchmarks not be scored; training goes on.
    EvaluationFailed {
        /// The step.
        step: usize,
        /// Why.
        reason: String,
    },
    /// Embedding and head, which were one matrix, are two.
    EmbeddingUntied {
        /// The step.
        step: usize,
        /// Why.
        reason: String,
    },
    /// The learning rate was found.
    LearningRate {
        /// The step, 0.
        step: usize,
        /// Which it is, and what was tried.
        reason: String,
    },
    /// The end, where an average of the weights was kept.
    WeightAverage {
        /// The step.
        step: usize,
        /// What the run ends with, and why.
        reason: String,
    },
    /// The end, where the best checkpoint was to be taken.
    BestModel {
        /// The step.
        step: usize,
        /// What the run ends with, and why.
        reason: String,
    },
}

impl Event {
    /// The unit that froze (`true`) or trains again, with the step; `None` of any other event.
    #[must_use]
    pub fn freezes(&self) -> Option<(usize, UnitId, bool)> {
        match self {
            Self::Decision(grades::Event::Freeze { step, unit, .. }) => Some((*step, *unit, true)),
            Self::Decision(grades::Event::Unfreeze { step, unit }) => Some((*step, *unit, false)),
            _ => None,
        }
    }
}

impl fmt::Display for RunEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint { step, path } => write!(f, "step {step} · checkpoint: {}", path.display()),
            Self::Generated { step, samples, path } => {
                write!(f, "step {step} · generated: {samples} answers in {}", path.display())
            }
            Self::EvaluationFailed { step, reason } => write!(f, "step {step} · evaluation_failed: {reason}"),
            Self::CheckpointFailed { step, reason } => write!(f, "step {step} · checkpoint_failed: {reason}"),
            Self::UploadFailed { step, reason } => write!(f, "step {step} · upload_failed: {reason}"),
            Self::StepSkipped { step, reason } => write!(f, "step {step} · step_skipped: {reason}"),
            Self::LossSpike { step, reason } => write!(f, "step {step} · loss_spike: {reason}"),
            Self::PrefixCacheOff { step, reason } => write!(f, "step {step} · prefix_cache_off: {reason}"),
            Self::VisionCacheOff { step, reason } => write!(f, "step {step} · vision_cache_off: {reason}"),
            Self::LearningRate { step, reason } => write!(f, "step {step} · learning_rate: {reason}"),
            Self::WeightAverage { step, reason } => write!(f, "step {step} · weight_average: {reason}"),
            Self::BestModel { step, reason } => write!(f, "step {step} · best_model: {reason}"),
            Self::EmbeddingUntied { step, reason } => write!(f, "step {step} · embedding_untied: {reason}"),
        }
    }
}
