//! The training loop: forward → loss → backward → measure → decide → update → log, for every method alike.

use std::io::Write;
use std::time::Instant;

use grades::{Cost, Decision, Flops, Observation, Policy, StopReason, Wants};
use grades_models::nn::Untied;
use grades_models::ops::{executed_flops, labels_of};
use grades_models::parameters::Place;
use grades_models::{Decoder, host};
use grades_report::record::{Event, RunEvent, Signals, Step, StepFlops};
use indicatif::{ProgressBar, ProgressStyle};

use super::checkpoint::{self, Progress};
use super::freeze::{Freezing, Gradients, Measured};
use super::optimizer::{Optimizer, Rule};
use super::prefix_cache::{self, PrefixCache, Set};
use super::run_dir::RunDir;
use super::start::Start;
use super::step::{self, Pass};
use super::{TrainError, memory};
use crate::config::SaveSteps;
use crate::data::{Batch, Loader};
use crate::schedule::Schedule;

/// The options of the loop itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The learning rate over the steps; its total is the number of planned steps.
    pub schedule: Schedule,
    /// The rule of the update.
    pub rule: Rule,
    /// Decay of the weights.
    pub weight_decay: f64,
    /// What the learning rate of an adapter's B is multiplied by.
    pub loraplus_lr_ratio: f64,
    /// Largest global norm of the gradients; larger ones are scaled down to it.
    pub max_grad_norm: Option<f64>,
    /// Seed of what is drawn at random in a pass: the adapters' dropout.
    pub seed: u64,
    /// Adds a frozen adapter to its weight, so that its products vanish.
    pub fold_frozen: bool,
    /// Runs layers again in the backward pass instead of keeping their activations.
    pub gradient_checkpointing: bool,
    /// Where outputs of a frozen prefix are kept.
    pub prefix_cache: prefix_cache::Options,
    /// Validates after every so many steps.
    pub eval_steps: Option<usize>,
    /// When checkpoints are written.
    pub save_steps: Option<SaveSteps>,
    /// Where there is no progress bar, a line is logged after every so many steps.
    pub logging_steps: usize,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps that were made.
    pub steps: usize,
    /// Why training ended before the planned steps.
    pub stopped: Option<StopReason>,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    /// Mean training loss per predicted token over all steps, as transformers' `training_loss`: the mean of the steps.
    pub train_loss: f64,
    /// Loss on the validation set at the end.
    pub val_loss: Option<f64>,
    /// Operations of the training steps.
    pub flops: Flops,
    /// Seconds of all steps with validation.
    pub seconds: f64,
    /// Seconds of them spent on validation.
    pub validation_seconds: f64,
    /// Seconds of them spent on measuring for the policy.
    pub monitor_seconds: f64,
    /// Operations of validation.
    pub validation_flops: u64,
    /// Operations of measuring and of the policy itself.
    pub monitor_flops: u64,
    /// Most bytes that were kept from step to step for the policy.
    pub monitor_bytes: u64,
    /// What the policy says that its checks cost.
    pub checks: Cost,
}

/// A run in progress.
pub struct Trainer<'a> {
    model: Decoder,
    policy: Box<dyn Policy>,
    loader: Loader,
    validation: &'a [Batch],
    options: Options,
    optimizer: Optimizer,
    freezing: Freezing,
    cache: PrefixCache,
    units: usize,
    best: Option<Vec<Vec<f32>>>,
    dir: &'a mut RunDir,
    progress: ProgressBar,
    /// Whether lines are logged in place of the progress bar.
    log_lines: bool,
    outcome: Outcome,
    /// The last step after which the validation loss was logged.
    validated_at: usize,
    loss_sum: f64,
}

impl<'a> Trainer<'a> {
    /// Sets a run up.
    #[must_use]
    pub fn new(start: Start, loader: Loader, validation: &'a [Batch], options: Options, dir: &'a mut RunDir) -> Self {
        let Start { model, policy, optimizer, freezing, best, outcome, loss_sum } = start;
        let units = super::freeze::units(&model).len();
        Self {
            model,
            policy,
            loader,
            validation,
            optimizer,
            freezing,
            cache: PrefixCache::new(options.prefix_cache, dir.path()),
            options,
            units,
            best,
            dir,
            progress: ProgressBar::hidden(),
            log_lines: false,
            outcome,
            validated_at: 0,
            loss_sum,
        }
    }

    /// Shows a progress bar on standard error, or lines where that is no terminal.
    #[must_use]
    pub fn with_progress(mut self) -> Self {
        let style = "{bar:30} {pos}/{len} {msg} [{elapsed}<{eta}]";
        self.progress = ProgressBar::new(self.options.schedule.total_steps as u64);
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.progress.set_style(style);
        }
        self.log_lines = self.progress.is_hidden();
        self
    }

    fn parts(&mut self) -> checkpoint::Parts<'_> {
        checkpoint::Parts {
            model: &mut self.model,
            optimizer: &mut self.optimizer,
            freezing: &mut self.freezing,
            best: &mut self.best,
        }
    }

    fn save_checkpoint(&mut self) -> Result<(), TrainError> {
        let step = self.outcome.steps;
        let mut progress = Progress::new(step, self.options.schedule.total_steps, self.policy.state());
        progress.tokens = self.outcome.tokens;
        progress.flops = self.outcome.flops;
        progress.loss_sum_bits = self.loss_sum.to_bits();
        let Outcome { validation_flops, monitor_flops, monitor_bytes, .. } = self.outcome;
        progress.checks = [validation_flops, monitor_flops, monitor_bytes];
        progress.seconds = [self.outcome.seconds, self.outcome.validation_seconds, self.outcome.monitor_seconds];
        let run = self.dir.path().to_owned();
        let folder = checkpoint::save(&run, progress, &self.parts())?;
        self.dir.event(&Event::Run(RunEvent::Checkpoint { step, path: folder }))
    }

    /// Trains to the end: the planned steps, or the policy's stop. Returns the trained model.
    ///
    /// # Errors
    /// If the loss is not finite, or a file cannot be written.
    pub fn train(mut self) -> Result<(Decoder, Outcome), TrainError> {
        let planned = self.options.schedule.total_steps;
        let in_force = self.policy.in_force();
        self.freezing.apply(&in_force, &mut self.model, &mut self.optimizer)?;
        let before_first = self.policy.wants(0);
        if self.outcome.steps == 0 && !before_first.is_idle() {
            self.observe_after_update(0, before_first, &Measured::default(), &mut Vec::new())?;
        }
        for step in self.outcome.steps + 1..=planned {
            let stop = self.step(step)?;
            self.outcome.steps = step;
            if stop.is_some() {
                self.outcome.stopped = stop;
                break;
            }
            if self.options.save_steps.as_ref().is_some_and(|save| save.due(step, planned)) && step < planned {
                self.save_checkpoint()?;
            }
        }
        self.progress.finish_and_clear();
        self.outcome.train_loss = self.loss_sum / self.outcome.steps.max(1) as f64;
        // For the record alone: no method asked for it, so no method is charged with it.
        let charged = (self.outcome.validation_seconds, self.outcome.validation_flops);
        self.outcome.val_loss = self.validate()?;
        (self.outcome.validation_seconds, self.outcome.validation_flops) = charged;
        if let Some(loss) = self.outcome.val_loss.filter(|_| self.validated_at != self.outcome.steps) {
            self.dir.final_validation(self.outcome.steps, self.outcome.seconds, loss)?;
        }
        self.outcome.checks = self.policy.cost();
        self.outcome.monitor_flops += self.outcome.checks.operations;
        Ok((self.model, self.outcome))
    }

    /// One step of the optimizer, `step` counted from 1.
    fn step(&mut self, step: usize) -> Result<Option<StopReason>, TrainError> {
        let (started, own_peak) = (Instant::now(), memory::reset_peak());
        let validated = self.outcome.validation_seconds;
        let batches = self.loader.step(step - 1);
        let Pass { loss, mut gradients, flops, .. } = self.pass(step, &batches)?;
        self.freezing.mask_gradients(&self.model, &mut gradients)?;

        // Algorithm 1: a matrix that freezes at this step is not updated any more.
        let wants = self.policy.wants(step);
        let watch = Instant::now();
        let measured = self.freezing.measure(&self.model, &gradients, &wants)?;
        self.outcome.monitor_flops += measured.operations;
        let mut stop = None;
        if !wants.is_idle() && !wants.after_update() {
            stop = self.observe(step, &wants, &measured, Some(&gradients), None)?;
        }
        let mut monitor_seconds = watch.elapsed().as_secs_f64();

        let learning_rate = self.options.schedule.rate(step - 1);
        let scale = step::clip(self.options.max_grad_norm, measured.gradient_norm);
        step::update(&mut self.model, &mut self.optimizer, &gradients, learning_rate, scale)?;

        let watch = Instant::now();
        let before = self.outcome.validation_seconds;
        let mut val_loss = None;
        if wants.after_update() {
            (stop, val_loss) = self.observe_after_update(step, wants, &measured, &mut gradients)?;
        } else {
            self.freezing.keep(&self.model, &mut gradients, &measured, &wants)?;
        }
        monitor_seconds += watch.elapsed().as_secs_f64() - (self.outcome.validation_seconds - before);
        drop(gradients);
        self.outcome.monitor_bytes = self.outcome.monitor_bytes.max(self.monitor_bytes());

        let due = self.options.eval_steps.is_some_and(|every| step.is_multiple_of(every));
        if due && val_loss.is_none() {
            val_loss = self.validate()?;
        }
        if val_loss.is_some() {
            self.validated_at = step;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.outcome.seconds += seconds;
        self.outcome.monitor_seconds += monitor_seconds;
        self.outcome.flops += flops;
        self.outcome.tokens += batches.iter().map(|batch| batch.ids.len() as u64).sum::<u64>();
        self.loss_sum += loss;
        let step_seconds = seconds - (self.outcome.validation_seconds - validated);
        let metrics = Step {
            step,
            loss: Some(loss),
            learning_rate,
            gradient_norm: Some(measured.gradient_norm).filter(|norm| norm.is_finite()),
            tokens: self.outcome.tokens,
            seconds: self.outcome.seconds,
            step_seconds,
            monitor_seconds,
            frozen_units: self.policy.frozen().len(),
            flops: StepFlops { executed: flops, skipped: self.skipped(&batches, flops) },
            optimizer_bytes: self.optimizer.bytes(),
            kept_bytes: self.freezing.bytes(),
            prefix_cache_bytes: self.cache.is_on().then(|| self.cache.bytes()),
            resident_bytes: memory::resident(),
            peak_bytes: memory::peak_since_reset().filter(|_| own_peak),
            val_loss,
        };
        self.log(&metrics)?;
        Ok(stop)
    }

    /// Forward and backward, above the frozen prefix where its outputs are known.
    fn pass(&mut self, step: usize, batches: &[Batch]) -> Result<Pass, TrainError> {
        if self.cache.is_on() && self.cached_layers() < self.model.frozen_layers() {
            self.untie(step)?;
        }
        let layers = self.cached_layers();
        // In the last epoch nothing comes again.
        let epoch = self.loader.steps_per_epoch().max(1);
        let keep = step.div_ceil(epoch) * epoch < self.options.schedule.total_steps;
        let (model, cache) = (&self.model, &mut self.cache);
        let checkpointing = self.options.gradient_checkpointing;
        let mut prefix = |batch: &Batch| cache.prefix(model, layers, Set::Train, batch, keep);
        let drawn = (self.options.seed, step);
        let pass = step::pass(model, drawn, batches, checkpointing, &mut prefix)?;
        if let Some(failure) = self.cache.take_failure() {
            self.note(RunEvent::PrefixCacheOff { step, reason: failure.to_string() })?;
        }
        Ok(pass)
    }

    /// The operations that a step in which everything trains would have executed beside `executed`.
    fn skipped(&self, batches: &[Batch], executed: Flops) -> Option<u64> {
        let checkpointing = self.options.gradient_checkpointing;
        let whole = |batch: &Batch| self.model.whole_pass(&batch.tokens(), batch.label_count, checkpointing);
        let whole: Option<Vec<Flops>> = batches.iter().map(whole).collect();
        Some(whole?.iter().map(Flops::total).sum::<u64>().saturating_sub(executed.total()))
    }

    /// How many layers from the input on have outputs that stay what they are.
    fn cached_layers(&self) -> usize {
        if self.model.is_prefix_constant() { self.model.frozen_layers() } else { 0 }
    }

    /// Keeps a tied embedding as it is as input, and lets a copy train on as head: else the head's training would move
    /// the outputs of the frozen layers.
    fn untie(&mut self, step: usize) -> Result<(), TrainError> {
        let Some(Untied { input, head }) = self.model.untie()? else { return Ok(()) };
        self.optimizer.hand_over(input, head);
        if let Some(best) = &mut self.best {
            best.push(best[input].clone());
        }
        let reason = "the embedding is frozen as input and trains on as head, so that the outputs of the frozen layers \
                      can be kept: the model is saved with both";
        self.note(RunEvent::EmbeddingUntied { step, reason: reason.to_owned() })
    }

    /// Records something about the run itself, and tells whoever watches it.
    fn note(&mut self, event: RunEvent) -> Result<(), TrainError> {
        let line = event.to_string();
        if self.log_lines {
            let _ = writeln!(std::io::stderr(), "{line}");
        } else {
            self.progress.println(line);
        }
        self.dir.event(&Event::Run(event))
    }

    /// Tells the policy what it wants to know before the update, and carries its decision out.
    fn observe(
        &mut self,
        step: usize,
        wants: &Wants,
        measured: &Measured,
        gradients: Option<&Gradients>,
        validation_loss: Option<f64>,
    ) -> Result<Option<StopReason>, TrainError> {
        let policy = &mut self.policy;
        let observation = Observation { measurements: &measured.units, validation_loss, ..Observation::default() };
        let parameters = self.model.parameters();
        let decision = match (wants.gradients, wants.weights) {
            (true, _) => self.freezing.with_elements(parameters, gradients, |elements| {
                policy.observe(step, &Observation { gradients: elements, ..observation })
            })?,
            (false, true) => self.freezing.with_elements(parameters, None, |elements| {
                policy.observe(step, &Observation { weights: elements, ..observation })
            })?,
            (false, false) => policy.observe(step, &observation),
        };
        self.apply(&decision)?;
        Ok(decision.stop)
    }

    /// The same for what is only known after the update: moved weights, and the validation loss, which it returns too.
    fn observe_after_update(
        &mut self,
        step: usize,
        wants: Wants,
        measured: &Measured,
        gradients: &mut Gradients,
    ) -> Result<(Option<StopReason>, Option<f64>), TrainError> {
        let moved = match wants.measure {
            true => self.freezing.measure_weights(&self.model, wants.norm)?,
            false => Measured::default(),
        };
        self.outcome.monitor_flops += moved.operations;
        let validation_loss = if wants.validation_loss { self.validate()? } else { None };
        let stop = self.observe(step, &wants, &moved, Some(gradients), validation_loss)?;
        self.freezing.keep(&self.model, gradients, measured, &wants)?;
        Ok((stop, validation_loss))
    }

    fn apply(&mut self, decision: &Decision) -> Result<(), TrainError> {
        self.freezing.apply(decision, &mut self.model, &mut self.optimizer)?;
        if decision.save_best {
            // What lies under adapters never changes.
            let copies = self.model.parameters().iter().map(|p| match p.place {
                Place::Base => Ok(Vec::new()),
                _ => host::read(&p.name, &p.value, <[f32]>::to_vec),
            });
            self.best = Some(copies.collect::<Result<_, _>>()?);
        }
        if decision.restore_best
            && let Some(best) = self.best.take()
        {
            self.cache.clear();
            let parameters = self.model.parameters_mut().iter_mut();
            for (parameter, best) in parameters.zip(best).filter(|(parameter, _)| parameter.place != Place::Base) {
                host::update(&parameter.name, &mut parameter.value, |values| values.copy_from_slice(&best))?;
            }
        }
        if !decision.signals.is_empty() {
            self.dir.signal(&Signals::new(decision.step, &decision.signals))?;
        }
        decision.events().into_iter().try_for_each(|event| self.dir.event(&Event::Decision(event)))
    }

    /// What is kept for the policy until the next step: gradients, weights, its own arrays, the best weights.
    fn monitor_bytes(&self) -> u64 {
        let best: usize = self.best.iter().flatten().map(Vec::len).sum();
        self.freezing.bytes() + self.policy.cost().bytes + (best * size_of::<f32>()) as u64
    }

    /// The mean loss per predicted token over the validation set; `None` where there is none.
    fn validate(&mut self) -> Result<Option<f64>, TrainError> {
        let (started, executed) = (Instant::now(), executed_flops());
        let (mut sum, mut labels) = (0.0, 0);
        let layers = self.cached_layers();
        let keep = self.outcome.steps < self.options.schedule.total_steps;
        for batch in self.validation {
            let (tokens, asked) = (batch.tokens(), labels_of(&batch.targets));
            let scores = match self.cache.prefix(&self.model, layers, Set::Validation, batch, keep)? {
                Some(prefix) => self.model.log_likelihoods_from(prefix, &tokens, &asked),
                None => self.model.log_likelihoods(&tokens, &asked),
            };
            sum -= host::read("validation", &scores, |s| s.iter().map(|&s| f64::from(s)).sum::<f64>())?;
            labels += batch.label_count;
        }
        self.outcome.validation_seconds += started.elapsed().as_secs_f64();
        self.outcome.validation_flops += executed_flops().since(&executed).total();
        Ok((labels > 0).then(|| sum / labels as f64))
    }

    fn log(&mut self, metrics: &Step) -> Result<(), TrainError> {
        self.dir.metric(metrics)?;
        let rate = metrics.tokens as f64 / metrics.seconds.max(1e-9);
        self.progress.set_position(metrics.step as u64);
        let validation = metrics.val_loss.map_or(String::new(), |loss| format!(" · validation {loss:.4}"));
        let line = format!(
            "loss {:.4}{validation} · {rate:.0} tokens/s · {}/{} frozen",
            metrics.loss.unwrap_or(f64::NAN),
            metrics.frozen_units,
            self.units
        );
        let due = metrics.step.is_multiple_of(self.options.logging_steps.max(1)) || metrics.val_loss.is_some();
        if due && self.log_lines {
            let total = self.options.schedule.total_steps;
            let _ = writeln!(std::io::stderr(), "step {}/{total} · {line}", metrics.step);
        }
        self.progress.set_message(line);
        Ok(())
    }
}
