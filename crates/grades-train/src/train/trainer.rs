//! The training loop: forward → loss → backward → measure → decide → update → log, for every method alike.

mod best;
mod ending;
mod evaluating;
mod setbacks;
mod telling;
mod validating;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use grades::{Cost, Decision, Flops, StepGains, StopReason, TraceStep, Wants};
use grades_models::{Decoder, Inputs};
use grades_report::record::{Event, RunEvent, Signals, Step, StepFlops, TaskScores};
use grades_tensor::Gradients;
use indicatif::{ProgressBar, ProgressStyle};

use super::average::Average;
use super::checkpoints::Checkpoints;
use super::error::{Nonfinite, TrainError};
use super::evaluation::Evaluation;
use super::freeze::{Losses, Measured};
use super::interrupt::Interrupt;
use super::ledger::Ledger;
use super::memory;
use super::optimizer_state::Rates;
use super::options::TrainOptions;
use super::preference::{Objective, RewardSums};
use super::prefix_cache::{PrefixCache, Set};
use super::pushing::Pusher;
use super::reading::Reader;
use super::run_dir::RunDir;
use super::state::TrainState;
use super::step::{self, Drawn, Pass, Read};
use super::validation::Validation;
use crate::config::BestMetric;
use crate::data::{Batch, Feed};
pub(super) use ending::COMPARED;

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What was counted.
    pub ledger: Ledger,
    /// Why training ended before the planned steps.
    pub stopped: Option<StopReason>,
    /// Loss on the validation set at the end.
    pub val_loss: Option<f64>,
    /// The same by set, where there are several.
    pub val_losses: Option<BTreeMap<String, f64>>,
    /// The scores of benchmarks at the end, where they were asked for.
    pub eval_tasks: Option<TaskScores>,
    /// What the policy says that its checks cost.
    pub checks: Cost,
    /// The step of the checkpoint that the run ends with, in place of its last weights.
    pub best_step: Option<usize>,
}

/// A trained model.
#[derive(Debug)]
pub struct Trained {
    /// As the run ends with it.
    pub model: Decoder,
    /// What the run came to.
    pub outcome: Outcome,
    /// With an average, what was not taken: [`Average::swap`] puts it in the place of the weights.
    pub left: Option<Average>,
    /// Whether `model` is the average.
    pub averaged: bool,
}

/// A run in progress.
pub struct Trainer<'a> {
    state: TrainState,
    feed: Feed,
    /// The batches of the next step.
    next: Option<(usize, Vec<Batch>)>,
    validation: &'a Validation,
    /// What was found when it was last gone through, by set where there are several.
    val_losses: Option<BTreeMap<String, f64>>,
    options: TrainOptions,
    objective: Objective,
    reader: Reader,
    cache: PrefixCache,
    dir: &'a mut RunDir,
    checkpoints: Checkpoints,
    interrupt: Interrupt,
    progress: ProgressBar,
    /// Whether lines are logged in place of the progress bar.
    log_lines: bool,
    /// The last step after which the validation loss was logged.
    validated_at: usize,
    /// Writes a model into a folder, as runs leave it.
    save_model: Option<&'a SaveModel<'a>>,
    /// Sends what is saved to the Hub.
    pusher: Option<Pusher>,
    /// What the model is asked between steps.
    evaluation: Option<Evaluation>,
    /// What the last validation said of the answers of preferences.
    val_rewards: Option<RewardSums>,
}

/// What writes a model into a folder.
pub type SaveModel<'a> = dyn Fn(&Decoder, &Path) -> Result<(), TrainError> + 'a;

impl<'a> Trainer<'a> {
    /// Sets a run up.
    #[must_use]
    pub fn new(
        state: TrainState,
        (feed, reader): (impl Into<Feed>, Reader),
        validation: &'a Validation,
        options: TrainOptions,
        dir: &'a mut RunDir,
    ) -> Self {
        let cache = PrefixCache::new(options.prefix_cache, dir.path());
        Self {
            checkpoints: Checkpoints::new(dir.path(), options.save_total_limit),
            state,
            feed: feed.into(),
            validation,
            val_losses: None,
            options,
            objective: Objective::Tokens,
            reader,
            next: None,
            cache,
            dir,
            interrupt: Interrupt::default(),
            progress: ProgressBar::hidden(),
            log_lines: false,
            validated_at: 0,
            save_model: None,
            pusher: None,
            evaluation: None,
            val_rewards: None,
        }
    }

    /// Writes a model by `save` where checkpoints hold nothing else.
    #[must_use]
    pub fn saving_by(mut self, save: &'a SaveModel<'a>) -> Self {
        self.save_model = Some(save);
        self
    }

    /// Sends what is saved to the Hub.
    #[must_use]
    pub fn pushing(mut self, pusher: Option<Pusher>) -> Self {
        self.pusher = pusher;
        self
    }

    /// Asks the model between steps.
    #[must_use]
    pub fn asking(mut self, evaluation: Option<Evaluation>) -> Self {
        self.evaluation = evaluation;
        self
    }

    /// Learns something else than every token that has a label.
    #[must_use]
    pub fn learning(mut self, objective: Objective) -> Self {
        self.objective = objective;
        self
    }

    /// Ends after the step at which `interrupt` is heard.
    #[must_use]
    pub fn until(mut self, interrupt: Interrupt) -> Self {
        self.interrupt = interrupt;
        self
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

    /// Trains to the end: the planned steps, or the policy's stop. Returns the trained model.
    ///
    /// # Errors
    /// If the loss is not finite, a file cannot be written, or the run is interrupted.
    pub fn train(mut self) -> Result<Trained, TrainError> {
        let planned = self.options.schedule.total_steps;
        self.state.apply(&self.state.policy.in_force())?;
        let before_first = self.state.policy.wants(0);
        if self.state.ledger.steps == 0 && !before_first.is_idle() {
            let (mut gradients, measured) = (Gradients::default(), Measured::default());
            self.observe_after_update(0, &before_first, None, measured, &mut gradients)?;
        }
        self.state.optimizer.prepare(self.state.model.parameters());
        let mut stopped = None;
        self.interrupt.begin();
        for step in self.state.ledger.steps + 1..=planned {
            stopped = self.step(step)?;
            self.state.ledger.steps = step;
            if stopped.is_some() {
                break;
            }
            let interrupted = self.interrupt.heard().filter(|_| step < planned);
            if self.saves(step) || interrupted.is_some() {
                self.push_written()?;
                self.save_checkpoint(interrupted.is_some())?;
            }
            if let Some(signal) = interrupted {
                return Err(self.interrupted(signal));
            }
            if self.saves(step) {
                self.push_saved(step)?;
            }
            let written = self.checkpoints.poll();
            self.without_checkpoint(written)?;
            self.push()?;
        }
        let written = self.checkpoints.wait();
        self.without_checkpoint(written)?;
        self.push_rest()?;
        self.interrupt.end();
        self.progress.finish_and_clear();
        self.finish(stopped)
    }

    /// One step of the optimizer, `step` counted from 1.
    fn step(&mut self, step: usize) -> Result<Option<StopReason>, TrainError> {
        let (clock, before, own_peak) = (Instant::now(), self.state.ledger.clone(), memory::reset_peak());
        let (batches, own_waiting) = self.batches(step)?;
        let tokens: u64 = batches.iter().map(|batch| batch.ids.len() as u64).sum();

        let (Pass { loss, rewards, mut gradients, flops, .. }, seen) = self.forward_and_backward(step, &batches)?;
        let (sees, waited) = (self.reader.sees(), self.reader.take_waited());
        self.state.ledger.flops += flops;
        if !loss.is_finite() {
            return self.without_update(step, Nonfinite::Loss, loss, (&batches, clock));
        }
        self.state.freezing.mask_gradients(&mut gradients);

        let wants = self.state.policy.wants(step);
        let monitor = Instant::now();
        let measured = self.state.freezing.measure(&gradients, &wants);
        let gradient_norm = measured.gradient_norm;
        self.state.ledger.monitor_flops += measured.operations;
        if !gradient_norm.is_finite() {
            return self.without_update(step, Nonfinite::GradientNorm, gradient_norm, (&batches, clock));
        }
        // Algorithm 1: a matrix that freezes at this step is not updated any more.
        let mut decision = Decision::default();
        if !wants.is_idle() && !wants.after_update() {
            decision =
                self.decide(step, &wants, Losses { training: Some(loss), validation: None }, &measured, &gradients)?;
        }
        self.state.ledger.monitored(monitor, before.validation_seconds);

        let (schedule, scale) = (self.options.schedule, step::clip(self.options.max_grad_norm, gradient_norm));
        let (learning_rate, warmup_steps) = (schedule.rate(step - 1), schedule.warmup_steps);
        // After a step that was passed over the moments tell of an update that was not made then.
        let updated_before = step > 1 && self.state.ledger.passed_over != Some(step - 1);
        let TrainState { model, optimizer, policy, average, freezing, .. } = &mut self.state;
        let rate = |step: usize, part| schedule.rate(step - 1) * policy.rate_factor(step, part);
        let rates = |part| Rates {
            learning_rate: rate(step, part),
            gain_of: (wants.gain && updated_before).then(|| rate(step - 1, part)),
        };
        let gains = optimizer.update(model.parameters_mut(), &gradients, rates, scale);
        let held = |slot| {
            let gradient = gradients.get(slot).map_or(0, |gradient| gradient.bytes() as u64);
            gradient + optimizer.bytes_of(slot) + average.as_ref().map_or(0, |average| average.bytes_of(slot))
        };
        let (units, others) = freezing.gains(model, &gains, tokens, held);
        if !units.is_empty() {
            let bytes = gradients.iter().map(|(slot, _)| held(slot)).sum();
            policy.observe_gains(step, &StepGains { units: &units, others, flops: flops.total(), bytes });
        }
        if self.options.trace {
            let measurements = measured.by_unit();
            let flops = flops.total();
            self.dir.trace(&TraceStep {
                step,
                loss: Some(loss),
                measurements,
                gains: units,
                other_gain: others,
                flops,
            })?;
        }
        if let Some(average) = average.as_mut().filter(|average| average.takes(step, warmup_steps)) {
            average.add(model.parameters());
        }

        let monitor = Instant::now();
        let mut val_loss = None;
        if wants.after_update() {
            (decision, val_loss) = self.observe_after_update(step, &wants, Some(loss), measured, &mut gradients)?;
        } else {
            self.keep(&mut gradients, &measured, &wants);
        }
        self.state.ledger.monitored(monitor, before.validation_seconds);
        drop(gradients);

        if val_loss.is_none() && (self.validates(step) || self.judges(step) == Some(BestMetric::EvalLoss)) {
            val_loss = self.validate()?;
        }
        let val_losses = self.val_losses.take().filter(|_| val_loss.is_some());
        let val_rewards = self.val_rewards.take().map(|rewards| rewards.means().0);
        let average_val_loss = if val_loss.is_some() { self.with_average(Self::validate)?.flatten() } else { None };
        // Those of the average are not told.
        self.val_rewards = None;
        if (1..=COMPARED).contains(&(self.options.schedule.total_steps - step)) {
            self.compare_average(step..step + 1)?;
        }
        let seconds = self.state.ledger.count_step(clock, loss, tokens);
        self.judge(step, val_loss);
        if let Some(usual) = self.state.ledger.spike(loss) {
            let reason = format!("the loss is {loss:.4}, where {usual:.4} is usual");
            self.note(RunEvent::LossSpike { step, reason })?;
        }
        let monitor_bytes = self.state.monitor_bytes();
        let ledger = &mut self.state.ledger;
        ledger.monitor_bytes = ledger.monitor_bytes.max(monitor_bytes);
        let ledger = ledger.clone();
        let peak_bytes = memory::peak_since_reset().filter(|_| own_peak);
        // What the run ends with is asked at its end.
        let is_last = step == self.options.schedule.total_steps || decision.stop.is_some();
        let asked = if self.validates(step) && !is_last { self.evaluate(step)? } else { None };
        let (eval_tasks, evaluation_seconds) = asked.unzip();
        let rewards = rewards.as_ref().map(RewardSums::means);
        let vision_cache_bytes = sees.then(|| self.reader.cache().bytes());
        self.log(&Step {
            step,
            loss: Some(loss),
            learning_rate,
            gradient_norm: Some(gradient_norm),
            tokens: ledger.tokens,
            seconds: ledger.seconds,
            step_seconds: seconds - (ledger.validation_seconds - before.validation_seconds),
            monitor_seconds: ledger.monitor_seconds - before.monitor_seconds,
            data_seconds: own_waiting + waited.seconds,
            frozen_units: self.state.policy.frozen().len(),
            flops: StepFlops { executed: flops, skipped: self.skipped(&seen, flops) },
            optimizer_bytes: self.state.optimizer.bytes(),
            kept_bytes: self.state.freezing.bytes(),
            prefix_cache_bytes: self.cache.is_on().then(|| self.cache.bytes()),
            vision_cache_bytes,
            rewards: rewards.map(|means| means.0),
            logps: rewards.map(|means| means.1),
            kl: rewards.and_then(|means| means.2),
            val_rewards,
            pictures: sees.then_some(waited.pictures),
            computed_pictures: sees.then_some(waited.computed),
            resident_bytes: memory::resident(),
            peak_bytes,
            val_loss,
            val_losses,
            average_val_loss,
            eval_tasks: eval_tasks.flatten(),
            evaluation_seconds,
        })?;
        Ok(decision.stop)
    }

    /// The batches of a step, with the pictures of this one and of the next announced, and the seconds that it took.
    ///
    /// # Errors
    /// If they are read as training goes on, and cannot be.
    fn batches(&mut self, step: usize) -> Result<(Vec<Batch>, f64), TrainError> {
        let clock = Instant::now();
        let batches = match self.next.take() {
            Some((of, batches)) if of == step => batches,
            _ => self.feed.step(step - 1)?,
        };
        let next = if step < self.options.schedule.total_steps { self.feed.step(step)? } else { Vec::new() };
        self.reader.begin(&self.state.model, batches.iter().chain(&next));
        self.next = Some((step + 1, next));
        // What was read between steps counts where it was read.
        self.reader.take_waited();
        Ok((batches, clock.elapsed().as_secs_f64()))
    }

    /// Forward and backward, above the frozen prefix where its outputs are known; and what was read, with its number of labels.
    fn forward_and_backward(
        &mut self,
        step: usize,
        batches: &[Batch],
    ) -> Result<(Pass, Vec<(Inputs, usize)>), TrainError> {
        // A tied embedding that trains on as head would move the outputs of the frozen layers.
        if self.cache.is_on() && self.cached_layers() < self.state.model.frozen_layers() && self.state.untie() {
            let reason = "the embedding is frozen as input and trains on as head, so that the outputs of the frozen \
                          layers can be kept: the model is saved with both";
            self.note(RunEvent::EmbeddingUntied { step, reason: reason.to_owned() })?;
        }
        let layers = self.cached_layers();
        // In the last epoch nothing comes again.
        let epoch = self.feed.steps_per_epoch().unwrap_or(1).max(1);
        let keep = step.div_ceil(epoch) * epoch < self.options.schedule.total_steps;
        let (model, cache, reader) = (&self.state.model, &mut self.cache, &mut self.reader);
        let mut seen = Vec::with_capacity(batches.len());
        let mut read = |batch: &Batch| {
            let inputs = reader.read(model, batch)?;
            seen.push((inputs.clone(), batch.label_count));
            Ok(Read { prefix: cache.prefix(model, layers, Set::Train, batch, keep), inputs })
        };
        let drawn = Drawn { seed: self.options.seed, step, noise: self.options.neftune_noise_alpha };
        let checkpointing = self.options.gradient_checkpointing;
        let pass = step::pass(model, drawn, batches, checkpointing, &self.objective, &mut read)?;
        if let Some(failure) = self.cache.take_failure() {
            self.note(RunEvent::PrefixCacheOff { step, reason: failure.to_string() })?;
        }
        if let Some(failure) = self.reader.cache().take_failure() {
            self.note(RunEvent::VisionCacheOff { step, reason: failure.to_string() })?;
        }
        Ok((pass, seen))
    }

    /// Tells the policy what it wants to know, and carries its decision out.
    fn decide(
        &mut self,
        step: usize,
        wants: &Wants,
        losses: Losses,
        measured: &Measured,
        gradients: &Gradients,
    ) -> Result<Decision, TrainError> {
        let TrainState { model, policy, freezing, ledger, .. } = &mut self.state;
        let seen = (measured, gradients, losses, ledger.spent());
        let decision = freezing.observed(model, wants, seen, |observation| policy.observe(step, observation));
        self.state.apply(&decision)?;
        if decision.restore_best {
            self.cache.clear();
            self.reader.cache().clear();
        }
        if let Some(plan) = &decision.plan {
            self.say(&format!("step {step} · {plan}"));
        }
        if !decision.signals.is_empty() {
            self.dir.signal(&Signals::new(decision.step, &decision.signals))?;
        }
        decision.events().into_iter().try_for_each(|event| self.dir.event(&Event::Decision(event)))?;
        Ok(decision)
    }

    /// The same with what is only known after the update: moved weights, and the validation loss, which it returns too.
    fn observe_after_update(
        &mut self,
        step: usize,
        wants: &Wants,
        training_loss: Option<f64>,
        mut measured: Measured,
        gradients: &mut Gradients,
    ) -> Result<(Decision, Option<f64>), TrainError> {
        let before = measured.operations;
        if wants.measure_weights {
            self.state.freezing.measure_weights(&self.state.model, wants.norm, &mut measured);
        }
        self.state.ledger.monitor_flops += measured.operations - before;
        let validation_loss = if wants.validation_loss { self.validate()? } else { None };
        let losses = Losses { training: training_loss, validation: validation_loss };
        let decision = self.decide(step, wants, losses, &measured, gradients)?;
        self.keep(gradients, &measured, wants);
        Ok((decision, validation_loss))
    }

    /// Keeps what the next steps are compared with.
    fn keep(&mut self, gradients: &mut Gradients, measured: &Measured, wants: &Wants) {
        let TrainState { model, freezing, .. } = &mut self.state;
        freezing.keep(model, gradients, measured, wants);
    }

    /// Does something with the averaged weights in the place of the weights, where there are any.
    fn with_average<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, TrainError>,
    ) -> Result<Option<T>, TrainError> {
        if !self.state.average.as_ref().is_some_and(Average::is_of_something) {
            return Ok(None);
        }
        let Some(mut average) = self.state.average.take() else { return Ok(None) };
        average.swap(self.state.model.parameters_mut());
        let result = body(self);
        average.swap(self.state.model.parameters_mut());
        self.state.average = Some(average);
        result.map(Some)
    }

    /// How many layers from the input on have outputs that stay what they are.
    fn cached_layers(&self) -> usize {
        let model = &self.state.model;
        if model.is_prefix_constant() { model.frozen_layers() } else { 0 }
    }

    /// The operations that a step in which everything trains would have executed beside `executed`.
    fn skipped(&self, seen: &[(Inputs, usize)], executed: Flops) -> Option<u64> {
        let checkpointing = self.options.gradient_checkpointing;
        let whole = |(inputs, labels): &(Inputs, usize)| self.state.model.whole_pass(inputs, *labels, checkpointing);
        let whole: Option<Vec<Flops>> = seen.iter().map(whole).collect();
        Some(whole?.iter().map(Flops::total).sum::<u64>().saturating_sub(executed.total()))
    }
}
