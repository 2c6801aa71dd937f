//! Where a run starts: before its first step, or after a checkpoint's. It is known to be sound before the run's
//! directory is touched.

use std::path::Path;

use grades::{Cost, Decision, Flops, Policy, PolicyMemory};
use grades_models::Decoder;

use super::TrainError;
use super::checkpoint::{self, Parts};
use super::freeze::Freezing;
use super::optimizer::Optimizer;
use super::trainer::{Options, Outcome};

/// The model with everything that is remembered from step to step.
pub struct Start {
    pub(super) model: Decoder,
    pub(super) policy: Box<dyn Policy>,
    pub(super) optimizer: Optimizer,
    pub(super) freezing: Freezing,
    /// The best weights so far, where the policy keeps them; nothing for what lies under adapters.
    pub(super) best: Option<Vec<Vec<f32>>>,
    pub(super) outcome: Outcome,
    /// The sum of the steps' losses.
    pub(super) loss_sum: f64,
}

impl Start {
    /// Before the first step: every parameter of the model trains, or of its adapters where it has any.
    #[must_use]
    pub fn new(mut model: Decoder, policy: Box<dyn Policy>, options: &Options) -> Self {
        model.parameters_mut().train();
        let outcome = Outcome {
            steps: 0,
            stopped: None,
            tokens: 0,
            train_loss: f64::NAN,
            val_loss: None,
            flops: Flops::default(),
            seconds: 0.0,
            validation_seconds: 0.0,
            monitor_seconds: 0.0,
            validation_flops: 0,
            monitor_flops: 0,
            monitor_bytes: 0,
            checks: Cost::default(),
        };
        Self {
            optimizer: Optimizer::new(options.rule, options.weight_decay, model.parameters().len())
                .with_loraplus_lr_ratio(options.loraplus_lr_ratio),
            freezing: Freezing::new(&model).with_folding(options.fold_frozen),
            model,
            policy,
            best: None,
            outcome,
            loss_sum: 0.0,
        }
    }

    /// The steps already made.
    #[must_use]
    pub fn step(&self) -> usize {
        self.outcome.steps
    }

    /// After a checkpoint of a run with the same config, as if it had never been interrupted. A checkpoint of a run
    /// without early stopping serves every policy that has asked for nothing up to its step: until then the two are one run.
    ///
    /// # Errors
    /// If the checkpoint is damaged, or of another model, config or length of run.
    pub fn resume(mut self, checkpoint: &Path, options: &Options) -> Result<Self, TrainError> {
        let parts = Parts {
            model: &mut self.model,
            optimizer: &mut self.optimizer,
            freezing: &mut self.freezing,
            best: &mut self.best,
        };
        let progress = checkpoint::restore(checkpoint, parts)?;
        let planned = options.schedule.total_steps;
        if progress.planned_steps != planned {
            return Err(TrainError::Other(format!(
                "{}: the checkpoint is of a run of {} steps, but this config plans {planned}; resume with the config \
                 that the run began with",
                checkpoint.display(),
                progress.planned_steps
            )));
        }
        let shared =
            matches!(progress.policy.memory, PolicyMemory::None) && idle_until(self.policy.as_ref(), progress.step);
        if !shared {
            self.policy.restore(progress.policy)?;
        }
        self.outcome.steps = progress.step;
        self.outcome.tokens = progress.tokens;
        self.outcome.flops = progress.flops;
        [self.outcome.seconds, self.outcome.validation_seconds, self.outcome.monitor_seconds] = progress.seconds;
        [self.outcome.validation_flops, self.outcome.monitor_flops, self.outcome.monitor_bytes] = progress.checks;
        self.loss_sum = f64::from_bits(progress.loss_sum_bits);
        Ok(self)
    }
}

/// Whether a policy at its start asks for nothing up to and including step `step`, and has decided nothing.
pub(super) fn idle_until(policy: &dyn Policy, step: usize) -> bool {
    let in_force = policy.in_force();
    let nothing = Decision { step: in_force.step, ..Decision::default() };
    in_force == nothing && (0..=step).all(|step| policy.wants(step).is_idle())
}
