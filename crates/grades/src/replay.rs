//! Offline trials: what would a config have decided on a recorded run?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::ConfigError;
use crate::config::Config;
use crate::event::StopReason;
use crate::monitor::Monitor;
use crate::signal::{Measurement, Signal};
use crate::unit::UnitId;

/// One step of a recording: one line of a signal log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceStep {
    /// The optimizer step, from 1.
    pub step: usize,
    /// The measurements of each unit.
    pub measurements: Vec<(UnitId, Vec<Measurement>)>,
}

impl TraceStep {
    /// A step of which only the values of a signal were recorded.
    pub fn of_signals(step: usize, signal: Signal, values: impl IntoIterator<Item = (UnitId, f64)>) -> Self {
        let measurements =
            values.into_iter().map(|(unit, value)| (unit, vec![Measurement::of_signal(signal, value)])).collect();
        Self { step, measurements }
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
        let decision = monitor.observe(recorded.step, &recorded.measurements);
        replay.frozen_at.extend(decision.freeze.into_iter().map(|unit| (unit, recorded.step)));
        replay.stop = replay.stop.or(decision.stop.map(|reason| (recorded.step, reason)));
    }
    Ok(replay)
}
