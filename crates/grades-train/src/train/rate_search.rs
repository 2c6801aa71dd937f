//! `learning_rate: auto`: the rate at which the first updates gain most.
//!
//! From the initial weights a few updates are made on the first batches of the run, and what they gain is added up: of each
//! update −⟨∇W_t, W_{t−1} − W_{t−2}⟩, by the gradient of the batch after it (the module `gain` of the crate `grades`). Then the
//! weights are put back, and the same is done at twice or half the rate, until it is worse on both sides. The first update does not
//! count: AdamW moves every weight by the whole rate in it, however small its gradient.
//!
//! Along an update of length η the loss falls by ηa − η²b/2, a being its slope and b its curvature, and the gain, which is the
//! slope at the end of the update, is ηa − η²b. So the rate that gains most is half of the one that lowers the loss fastest, which
//! is too high to go on with. Of rates between which so few batches cannot tell, the highest is taken: an average of the weights
//! repairs a rate that is a little too high, and nothing one that is too low.

use std::time::Instant;

use grades::Wants;
use grades_report::record::RunEvent;
use grades_tensor::executed;

use super::error::TrainError;
use super::ledger::Exact;
use super::optimizer::Optimizer;
use super::optimizer_state::Rates;
use super::options::TrainOptions;
use super::preference::Objective;
use super::reading::Reader;
use super::state::{TrainState, own_values, put_back};
use super::step::{self, Drawn, Pass, Read};
use crate::data::{Batch, Feed};

/// Updates at each rate. Fewer favour rates that are too high, more favour rates that are too low, since these have more left to
/// gain when the others are done.
const UPDATES: usize = 6;

/// The share of the most that a rate has to gain to be as good.
const AS_GOOD: f64 = 0.95;

/// The search ends at so many times twice or half of the rate that it began with.
const REACH: i32 = 12;

/// A rate, and what updates at it have gained, in nats.
type Tried = (f64, f64);

/// Finds the rate, searching from `first` on, and notes it with what it cost in the ledger, as monitoring.
///
/// # Errors
/// If a batch cannot be read, or no rate gains anything.
pub(super) fn find(
    state: &mut TrainState,
    data: (&mut Feed, &mut Reader, &Objective),
    options: &TrainOptions,
    first: f64,
) -> Result<(f64, RunEvent), TrainError> {
    let (clock, before) = (Instant::now(), executed());
    let tried = try_rates(state, data, options, first)?;
    let ledger = &mut state.ledger;
    ledger.monitor_flops += executed().since(&before).total();
    let seconds = clock.elapsed().as_secs_f64();
    (ledger.seconds, ledger.monitor_seconds) = (ledger.seconds + seconds, ledger.monitor_seconds + seconds);
    let gains: Vec<String> = tried.iter().map(|(rate, gained)| format!("{gained:.3} at {rate:e}")).collect();
    let gains = gains.join(", ");
    let rate = best(&tried).ok_or_else(|| {
        TrainError::Other(format!(
            "`learning_rate: auto` has found no rate at which the first updates gain anything ({gains}); give a number"
        ))
    })?;
    ledger.learning_rate = Some(Exact(rate));
    let reason = format!("{rate:e}, the highest at which the first {UPDATES} updates gain most: {gains} nats");
    Ok((rate, RunEvent::LearningRate { step: 0, reason }))
}

/// Tries rates from `first` on, and returns them in order, lowest first. The weights, and all else in `state`, are what they were.
///
/// # Errors
/// If a batch cannot be read.
fn try_rates(
    state: &mut TrainState,
    (feed, reader, objective): (&mut Feed, &mut Reader, &Objective),
    options: &TrainOptions,
    first: f64,
) -> Result<Vec<Tried>, TrainError> {
    let initial = own_values(&state.model);
    let batches: Vec<Vec<Batch>> = (0..=UPDATES).map(|step| feed.step(step)).collect::<Result<_, _>>()?;
    climb(first, |rate| {
        let gained = gained(state, &batches, (reader, objective), options, rate);
        put_back(&mut state.model, &initial);
        gained
    })
}

/// The highest rate that is as good as the best.
fn best(tried: &[Tried]) -> Option<f64> {
    let most = tried.iter().map(|tried| tried.1).fold(0.0, f64::max);
    let as_good = tried.iter().filter(|tried| tried.1 > 0.0 && tried.1 >= AS_GOOD * most);
    as_good.map(|tried| tried.0).max_by(f64::total_cmp)
}

/// What the first updates at a rate gain; nothing where the loss does not stay finite.
fn gained(
    state: &mut TrainState,
    batches: &[Vec<Batch>],
    (reader, objective): (&mut Reader, &Objective),
    options: &TrainOptions,
    rate: f64,
) -> Result<f64, TrainError> {
    let mut optimizer = Optimizer::of(options, state.model.parameters().slots());
    let mut gained = 0.0;
    for (step, batches) in (1..).zip(batches) {
        let drawn = Drawn { seed: options.seed, step, noise: options.neftune_noise_alpha };
        let model = &state.model;
        let mut read = |batch: &Batch| Ok(Read { inputs: reader.read(model, batch)?, prefix: None });
        let pass = step::pass(model, drawn, batches, options.gradient_checkpointing, objective, &mut read)?;
        let Pass { loss, gradients, .. } = pass;
        if !loss.is_finite() {
            return Ok(f64::NEG_INFINITY);
        }
        let norm = state.freezing.measure(&gradients, &Wants::default()).gradient_norm;
        let rates = Rates { learning_rate: rate, gain_of: (step > 2).then_some(rate) };
        let scale = step::clip(options.max_grad_norm, norm);
        let gains = optimizer.update(state.model.parameters_mut(), &gradients, |_| rates, scale);
        gained += gains.iter().map(|(_, gain)| gain).sum::<f64>();
    }
    Ok(if gained.is_finite() { gained } else { f64::NEG_INFINITY })
}

/// Values of `of` at `first` times powers of two, as far to both sides as they get better; lowest first.
fn climb<E>(first: f64, mut of: impl FnMut(f64) -> Result<f64, E>) -> Result<Vec<Tried>, E> {
    let at = |k: i32| first * f64::from(k).exp2();
    let mut tried = vec![(first, of(first)?)];
    for direction in [1, -1] {
        let mut last = tried.iter().map(|tried| tried.1).fold(f64::NEG_INFINITY, f64::max);
        // Better rates above mean that the one below is worse.
        if direction < 0 && tried.len() > 2 {
            break;
        }
        for k in 1..=REACH {
            let rate = at(direction * k);
            let value = of(rate)?;
            tried.push((rate, value));
            if value <= last {
                break;
            }
            last = value;
        }
    }
    tried.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(best: f64) -> Vec<f64> {
        let mut asked = Vec::new();
        let of = |rate: f64| {
            asked.push(rate);
            Ok::<_, ()>(-(rate / best).log2().abs())
        };
        let tried = climb(1e-4, of).unwrap();
        assert_eq!(tried.len(), asked.len());
        tried.iter().map(|tried| tried.0 / 1e-4).collect()
    }

    #[test]
    fn the_search_goes_up_or_down_until_it_is_worse() {
        assert_eq!(tried(1e-4), [0.5, 1.0, 2.0]);
        assert_eq!(tried(4e-4), [1.0, 2.0, 4.0, 8.0]);
        assert_eq!(tried(2.5e-5), [0.125, 0.25, 0.5, 1.0, 2.0]);
        // It ends where it is told to.
        assert_eq!(tried(1e9).len(), 13);
    }

    #[test]
    fn what_gains_nothing_is_not_chosen() {
        assert_eq!(best(&[(1e-4, 0.1), (2e-4, 0.3), (4e-4, f64::NEG_INFINITY)]), Some(2e-4));
        assert_eq!(best(&[(1e-4, -0.1), (2e-4, 0.0)]), None);
        // 0.95 of the most are as good, less are not.
        assert_eq!(best(&[(1e-4, 1.0), (2e-4, 0.96), (4e-4, 0.94)]), Some(2e-4));
    }
}
