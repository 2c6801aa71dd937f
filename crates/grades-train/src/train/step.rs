//! The pass through the model for one step of the optimizer.

use std::sync::Arc;
use std::time::Instant;

use grades::Flops;
use grades_models::model::{PassOptions, Prefix};
use grades_models::nn::DropoutKey;
use grades_models::{Decoder, Inputs};
use grades_tensor::{Gradients, Held, executed, held};

use super::error::TrainError;
use super::preference::{Objective, Preferences, RewardSums};
use super::prefix_cache::Set;
use crate::data::Batch;

/// What a pass over a step's micro-batches gave.
#[derive(Debug)]
pub(crate) struct Pass {
    /// The mean loss per predicted token, or per row of preferences. Where it is not finite, the pass ended there, and the gradients are worth nothing.
    pub(crate) loss: f64,
    /// What the answers of preferences are worth.
    pub(crate) rewards: Option<RewardSums>,
    /// Its gradients.
    pub(crate) gradients: Gradients,
    /// Executed operations.
    pub(crate) flops: Flops,
    /// What the last micro-batch's forward pass left for the way back, and the head's gradients.
    pub(crate) kept: Held,
    /// Seconds until the losses were known. The gradients of the head are computed with them, so they count here.
    pub(crate) forward_seconds: f64,
    /// Seconds of the rest.
    pub(crate) backward_seconds: f64,
}

/// What a micro-batch is to the model.
pub(crate) struct Read {
    /// Its tokens and pictures.
    pub(crate) inputs: Inputs,
    /// The output of frozen layers for it, where that is known.
    pub(crate) prefix: Option<Prefix>,
}

/// What is drawn at random in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn {
    /// The run's seed, from which with the step and the micro-batch dropout and noise are drawn.
    pub(crate) seed: u64,
    /// The step.
    pub(crate) step: usize,
    /// α of the noise on the input embeddings, if there is any.
    pub(crate) noise: Option<f64>,
}

/// Forward and backward through the micro-batches of a step, which `read` turns into inputs; with `checkpointing` a layer at a
/// time.
///
/// # Errors
/// Those of `read`.
pub(crate) fn pass(
    model: &Decoder,
    Drawn { seed, step, noise }: Drawn,
    batches: &[Batch],
    checkpointing: bool,
    objective: &Objective,
    read: &mut dyn FnMut(&Batch) -> Result<Read, TrainError>,
) -> Result<Pass, TrainError> {
    let (started, before, held_before) = (Instant::now(), executed(), held());
    let mut kept = Held::default();
    let labels: usize = batches.iter().map(|batch| batch.label_count).sum();
    let rows =
        |preferences: &Preferences| batches.iter().map(|batch| preferences.rows(Set::Train, batch)).sum::<usize>();
    let mut rewards = None;
    let mut gradients = Gradients::new(model.parameters().slots());
    let (mut total, mut forward_seconds) = (0.0, 0.0);
    for (micro_batch, batch) in batches.iter().enumerate() {
        let forward = Instant::now();
        let dropout = Some(DropoutKey { seed, step: step as u64, micro_batch: micro_batch as u64 });
        if let Objective::Preference(preferences) = objective {
            let learnt = preferences.learnt(batch);
            let Read { inputs, prefix } = read(&learnt)?;
            let options = PassOptions { checkpointing, prefix, dropout, noise };
            let share = preferences.rows(Set::Train, batch) as f64 / rows(preferences).max(1) as f64;
            let judged = preferences.pass(model, batch, (&learnt, &inputs), share, options);
            total += judged.loss;
            rewards.get_or_insert_with(RewardSums::default).add(&judged.rewards);
            forward_seconds += forward.elapsed().as_secs_f64();
            if !total.is_finite() {
                break;
            }
            kept = held().since(&held_before);
            judged.backward(&mut gradients);
            continue;
        }
        let Read { inputs, prefix } = read(batch)?;
        let options = PassOptions { checkpointing, prefix, dropout, noise };
        let (targets, scale) = (Arc::new(batch.targets.clone()), 1.0 / labels.max(1) as f32);
        let pass = model.pass(&inputs, targets, scale, options);
        total += pass.loss().to_host().first().copied().map_or(f64::NAN, f64::from);
        forward_seconds += forward.elapsed().as_secs_f64();
        if !total.is_finite() {
            break;
        }
        kept = held().since(&held_before);
        pass.backward(&mut gradients);
    }
    Ok(Pass {
        loss: total,
        rewards,
        gradients,
        flops: executed().since(&before),
        kept,
        forward_seconds,
        backward_seconds: started.elapsed().as_secs_f64() - forward_seconds,
    })
}

/// What gradients of the global norm `norm` are multiplied by so that it is at most `max`, as
/// `torch.nn.utils.clip_grad_norm_`.
pub(crate) fn clip(max: Option<f64>, norm: f64) -> f32 {
    max.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)) as f32
}
