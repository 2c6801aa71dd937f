//! How long a run would take, by a few of its steps.

use std::time::Instant;

use grades::Wants;
use grades_tensor::labels_of;

use super::dry_run::{DryRun, TimeEstimate};
use super::error::TrainError;
use super::evaluation::Evaluation;
use super::freeze::units;
use super::optimizer_state::Rates;
use super::options::TrainOptions;
use super::preference::Objective;
use super::prepared::Prepared;
use super::reading::Reader;
use super::run::{adapted, load, objective, options};
use super::start::Start;
use super::state::TrainState;
use super::step::{self, Drawn, Pass, Read};
use super::vision_cache::VisionCache;
use crate::config::Config;
use crate::data::Batch;

/// Steps that are timed, spread over an epoch (of a stream the first), after one that is not: the first pays for pages of memory.
const TIMED: usize = 3;

/// As [`dry_run`](super::dry_run()), and then loads the model and makes a few steps, of which nothing is written.
///
/// # Errors
/// As [`run`](super::run()).
pub fn timed_dry_run(config: &Config) -> Result<DryRun, TrainError> {
    Start::of(config)?;
    let prepared = Prepared::of(config)?;
    let plan = DryRun::of(&prepared)?;
    plan.check_memory(&prepared.config)?;
    let time = estimate(&prepared)?;
    Ok(DryRun { time: Some(time), ..plan })
}

fn estimate(prepared: &Prepared) -> Result<TimeEstimate, TrainError> {
    let started = Instant::now();
    let Prepared { config, feed, planned_steps, .. } = prepared;
    let (planned, epoch) = (*planned_steps, prepared.epoch_steps().max(1));
    let method = prepared.early_stopping();
    let base = load(prepared, &method)?;
    let (objective, asked) = objective(prepared, &base)?;
    let asked_seconds = asked.map_or(0.0, |(_, seconds)| seconds);
    let model = adapted(base, config)?;
    let policy = method.build(&units(&model), planned)?;
    let wants = policy.wants(planned.div_ceil(2));
    let options = options(config, planned, epoch);
    let mut state = TrainState::new(model, policy, &options);
    let mut reader = Reader::new(prepared.vision.clone(), VisionCache::off());
    let mut feed = feed.clone();

    let (mut seconds, mut tokens) = (0.0, 0);
    // The same steps where there are fewer: they are timed again.
    let spread = if config.streaming { TIMED } else { epoch };
    let steps = (0..=TIMED).map(|n| n.saturating_sub(1) * spread / TIMED);
    for (n, step) in steps.enumerate() {
        let batches = feed.step(step.min(planned.saturating_sub(1)))?;
        let clock = Instant::now();
        make_step(&mut state, (&mut reader, &objective), n + 1, &batches, (&options, &wants))?;
        if n > 0 {
            seconds += clock.elapsed().as_secs_f64();
            tokens += tokens_of(&batches);
        }
    }
    let per_token = seconds / tokens.max(1) as f64;
    let all: u64 = feed.samples().iter().map(|sample| sample.len() as u64).sum();
    let step_seconds = if config.streaming { seconds / TIMED as f64 } else { per_token * all as f64 / epoch as f64 };

    let clock = Instant::now();
    let (mut seen, mut validation_seconds) = (0, 0.0);
    for batch in prepared.validation.batches.iter().take(TIMED) {
        let _ = state.model.log_likelihoods(&reader.read(&state.model, batch)?, &labels_of(&batch.targets)).to_host();
        seen += batch.ids.len();
        validation_seconds = clock.elapsed().as_secs_f64();
    }
    let of_validation: usize = prepared.validation.batches.iter().map(|batch| batch.ids.len()).sum();
    let validation_seconds = validation_seconds * of_validation as f64 / seen.max(1) as f64;
    let between = options.eval_steps.map_or(0, |every| planned.saturating_sub(1) / every);
    let validations = if seen == 0 { 0 } else { between + 1 };
    let (evaluation_seconds, evaluations) = match Evaluation::of(prepared)? {
        Some(evaluation) => (evaluation.seconds(&mut state.model)?, between + 1),
        None => (0.0, 0),
    };
    let between_steps = validations as f64 * validation_seconds + evaluations as f64 * evaluation_seconds;
    Ok(TimeEstimate {
        step_seconds,
        tokens_per_second: 1.0 / per_token.max(f64::MIN_POSITIVE),
        validation_seconds,
        validations,
        evaluation_seconds,
        evaluations,
        seconds: asked_seconds + planned as f64 * step_seconds + between_steps,
        timed_steps: TIMED,
        cost_seconds: started.elapsed().as_secs_f64(),
    })
}

fn tokens_of(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| batch.ids.len() as u64).sum()
}

/// A step as the trainer makes it, with what the method measures.
fn make_step(
    state: &mut TrainState,
    (reader, objective): (&mut Reader, &Objective),
    step: usize,
    batches: &[Batch],
    (options, wants): (&TrainOptions, &Wants),
) -> Result<(), TrainError> {
    let drawn = Drawn { seed: options.seed, step, noise: options.neftune_noise_alpha };
    let model = &state.model;
    let mut read = |batch: &Batch| Ok(Read { inputs: reader.read(model, batch)?, prefix: None });
    let checkpointing = options.gradient_checkpointing;
    let Pass { mut gradients, .. } = step::pass(model, drawn, batches, checkpointing, objective, &mut read)?;
    let measured = state.freezing.measure(&gradients, wants);
    let scale = step::clip(options.max_grad_norm, measured.gradient_norm);
    // A rate at which nothing moves far, whatever the run's is.
    let rates = Rates { learning_rate: f64::MIN_POSITIVE, gain_of: None };
    state.optimizer.update(state.model.parameters_mut(), &gradients, |_| rates, scale);
    state.freezing.keep(&state.model, &mut gradients, &measured, wants);
    Ok(())
}
