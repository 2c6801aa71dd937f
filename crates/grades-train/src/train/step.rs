//! One step of the optimizer in its two halves: the pass through the model, and the update.

use std::sync::Arc;
use std::time::Instant;

use grades::Flops;
use grades_kernels::optimizer::axpy;
use grades_models::nn::{Draw, PassOptions, Prefix};
use grades_models::ops::executed_flops;
use grades_models::{Decoder, Error, host};

use super::TrainError;
use super::freeze::Gradients;
use super::optimizer::Optimizer;
use crate::data::Batch;

/// What a pass over a step's micro-batches gave.
#[derive(Debug)]
pub(crate) struct Pass {
    /// The mean loss per predicted token.
    pub(crate) loss: f64,
    /// Its gradients.
    pub(crate) gradients: Gradients,
    /// Executed operations.
    pub(crate) flops: Flops,
    /// Seconds until the losses were known. The gradients of the head are computed with them, so they count here.
    pub(crate) forward_seconds: f64,
    /// Seconds of the rest.
    pub(crate) backward_seconds: f64,
}

/// Forward and backward through the micro-batches of step `step`; with `checkpointing` a layer at a time,
/// and above what `prefix` gives of a micro-batch. Dropout is drawn from `seed`, the step and the micro-batch.
///
/// # Errors
/// If the loss is not finite, or the device fails to hand values over.
pub(crate) fn pass(
    model: &Decoder,
    (seed, step): (u64, usize),
    batches: &[Batch],
    checkpointing: bool,
    prefix: &mut dyn FnMut(&Batch) -> Result<Option<Prefix>, Error>,
) -> Result<Pass, TrainError> {
    let (started, executed) = (Instant::now(), executed_flops());
    let labels: usize = batches.iter().map(|batch| batch.label_count).sum();
    let mut gradients: Gradients = model.parameters().iter().map(|_| None).collect();
    let (mut total, mut forward_seconds) = (0.0, 0.0);
    for (micro_batch, batch) in batches.iter().enumerate() {
        let forward = Instant::now();
        let draw = Some(Draw { seed, step: step as u64, micro_batch: micro_batch as u64 });
        let options = PassOptions { checkpointing, prefix: prefix(batch)?, draw };
        let (targets, scale) = (Arc::new(batch.targets.clone()), 1.0 / labels.max(1) as f32);
        let pass = model.pass(&batch.tokens(), targets, scale, options);
        total += host::read("loss", pass.loss(), |loss| loss.first().copied().map_or(f64::NAN, f64::from))?;
        forward_seconds += forward.elapsed().as_secs_f64();
        if !total.is_finite() {
            let samples: Vec<String> = batch.samples.iter().map(ToString::to_string).collect();
            return Err(TrainError::Loss { step, loss: total, samples: samples.join(", ") });
        }
        pass.backward(|index, gradient| {
            let name = &model.parameters()[index].name;
            match &mut gradients[index] {
                sum @ None => *sum = Some(gradient),
                Some(sum) => {
                    host::read(name, &gradient, |gradient| host::update(name, sum, |sum| axpy(1.0, gradient, sum)))??
                }
            }
            Ok::<_, Error>(())
        })?;
    }
    Ok(Pass {
        loss: total,
        gradients,
        flops: executed_flops().since(&executed),
        forward_seconds,
        backward_seconds: started.elapsed().as_secs_f64() - forward_seconds,
    })
}

/// What gradients of the global norm `norm` are multiplied by so that it is at most `max`, as
/// `torch.nn.utils.clip_grad_norm_`.
pub(crate) fn clip(max: Option<f64>, norm: f64) -> f32 {
    max.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)) as f32
}

/// Moves every parameter that still trains along its gradient times `scale`.
///
/// # Errors
/// When the device fails to hand values over.
pub(crate) fn update(
    model: &mut Decoder,
    optimizer: &mut Optimizer,
    gradients: &Gradients,
    learning_rate: f64,
    scale: f32,
) -> Result<(), Error> {
    for (index, (parameter, gradient)) in model.parameters_mut().iter_mut().zip(gradients).enumerate() {
        let Some(gradient) = gradient.as_ref().filter(|_| parameter.is_trainable()) else { continue };
        let name = parameter.name.clone();
        host::read(&name, gradient, |gradient| optimizer.update(index, parameter, gradient, learning_rate, scale))??;
    }
    Ok(())
}
