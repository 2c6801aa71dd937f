//! Offline trials: what would a config have decided on a recorded run?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::ConfigError;
use crate::config::Config;
use crate::event::StopReason;
use crate::exact;
use crate::gain::{StepGains, UnitGain};
use crate::monitor::Monitor;
use crate::signal::{Measurement, Signal};
use crate::unit::UnitId;

/// One step of a recording: one line of `trace.jsonl`, which a run with [`trace`](Config::trace) writes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TraceStep {
    /// The optimizer step, from 1.
    pub step: usize,
    /// The training loss; recordings from before it was kept have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The measurements of each unit.
    pub measurements: Vec<(UnitId, Vec<Measurement>)>,
    /// What the step's update has found of the update before it; empty where nothing was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gains: Vec<UnitGain>,
    /// The gain of all other parameters, in nats.
    #[serde(default, deserialize_with = "exact::number_or_nan")]
    pub other_gain: f64,
    /// The arithmetic of the step, in FLOPs.
    #[serde(default)]
    pub flops: u64,
}

impl TraceStep {
    /// A step of which only the values of a signal were recorded.
    pub fn of_signals(step: usize, signal: Signal, values: impl IntoIterator<Item = (UnitId, f64)>) -> Self {
        let measurements =
            values.into_iter().map(|(unit, value)| (unit, vec![Measurement::of_signal(signal, value)])).collect();
        Self { step, measurements, ..Self::default() }
    }
}

/// What a config decided on a recording.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Replay {
    /// When each unit froze.
    pub frozen_at: BTreeMap<UnitId, usize>,
    /// When and why training would have stopped.
    pub stop: Option<(usize, StopReason)>,
}

/// Replays a recording, made without freezing and in the order of its steps, through a monitor.
///
/// A change of weights is taken to span the steps that the config's `interval` says. The gradients of a real run would
/// change once units freeze; the recording's do not, so the first decisions are exact and later ones an estimate.
///
/// # Errors
/// If the config is invalid or does not fit the units of the recording.
pub fn replay<'a>(
    config: Config,
    units: &[UnitId],
    planned_steps: usize,
    trace: impl IntoIterator<Item = &'a TraceStep>,
) -> Result<Replay, ConfigError> {
    let mut monitor = Monitor::new(config, units, planned_steps)?;
    let mut replay = Replay::default();
    for recorded in trace {
        if let Some(loss) = recorded.loss {
            monitor.observe_loss(recorded.step, loss);
        }
        let decision = monitor.observe(recorded.step, &recorded.measurements);
        replay.frozen_at.extend(decision.freeze.into_iter().map(|unit| (unit, recorded.step)));
        replay.stop = replay.stop.or(decision.stop.map(|reason| (recorded.step, reason)));
        if !recorded.gains.is_empty() {
            let TraceStep { gains: units, other_gain: others, flops, .. } = recorded;
            monitor.observe_gains(recorded.step, &StepGains { units, others: *others, flops: *flops, bytes: 0 });
        }
    }
    Ok(replay)
}
