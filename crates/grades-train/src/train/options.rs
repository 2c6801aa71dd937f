//! The options of the training loop.

use super::average::WeightAverage;
use super::outputs;
use super::rule::Rule;
use crate::config::{BestModel, OnNonfinite, Saves};
use crate::schedule::Schedule;

/// The options of the loop itself.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// The learning rate over the steps; its total is the number of planned steps.
    pub schedule: Schedule,
    /// The rule of the update.
    pub rule: Rule,
    /// Decay of the weights of matrices and embeddings; vectors (norms and biases) do not decay.
    pub weight_decay: f64,
    /// What the learning rate of an adapter's B is multiplied by.
    pub loraplus_lr_ratio: f64,
    /// What the learning rate of embeddings and of an untied head is multiplied by.
    pub embedding_lr_ratio: f64,
    /// What those of a tower that looks at pictures, and of what makes rows of its output, are multiplied by.
    pub picture_lr_ratios: [f64; 2],
    /// Largest global norm of the gradients; larger ones are scaled down to it.
    pub max_grad_norm: Option<f64>,
    /// Seed of what is drawn at random in a pass: the adapters' dropout, noise on the embeddings.
    pub seed: u64,
    /// α of NEFTune's noise on the input embeddings.
    pub neftune_noise_alpha: Option<f64>,
    /// Adds a frozen adapter to its weight, so that its products vanish.
    pub fold_frozen: bool,
    /// Runs layers again in the backward pass instead of keeping their activations.
    pub gradient_checkpointing: bool,
    /// Which average of the weights is kept, for the run to end with.
    pub weight_average: Option<WeightAverage>,
    /// Where outputs of a frozen prefix are kept.
    pub prefix_cache: outputs::Options,
    /// Validates after every so many steps.
    pub eval_steps: Option<usize>,
    /// When checkpoints are written.
    pub saves: Saves,
    /// Whether they hold the model alone.
    pub save_only_model: bool,
    /// How the best of them is found, where it is asked for.
    pub best_model: Option<BestModel>,
    /// How many of them stay.
    pub save_total_limit: Option<usize>,
    /// What happens at a step whose loss or gradients are not finite.
    pub on_nonfinite: OnNonfinite,
    /// Whether what the method is given is written down, step by step.
    pub trace: bool,
    /// Where there is no progress bar, a line is logged after every so many steps.
    pub logging_steps: usize,
}
