//! GradES: each weight matrix of a transformer freezes when its gradient has stopped changing.
//!
//! This crate is the method alone: no tensors, no files, no threads. It says what to measure, takes plain numbers, and
//! says which matrices to freeze and when to stop. Any training loop can use it:
//!
//! ```
//! use grades::{Config, Measurement, Monitor, Norm, Role, UnitId};
//!
//! // A "model" of two 2 × 2 matrices. The gradient of the first settles at once, that of the second keeps swinging.
//! let units = [UnitId::language(0, Role::Q), UnitId::language(0, Role::Down)];
//! let gradient = |unit: UnitId, step: usize| match unit.role {
//!     Role::Q => [1.0 / step as f32, 0.0, 0.0, 0.5],
//!     _ => [if step % 2 == 0 { 1.0 } else { -1.0 }, 0.0, 0.0, 0.0],
//! };
//!
//! let planned_steps = 10;
//! let mut monitor = Monitor::new(Config { alpha: Some(0.2), ..Config::paper(0.1) }, &units, planned_steps)?;
//! let mut previous: Vec<Option<[f32; 4]>> = vec![None, None];
//!
//! for step in 1..=planned_steps {
//!     // … forward pass, loss, backward pass …
//!     let wants = monitor.wants(step);
//!     let mut measured = Vec::new();
//!     for (i, unit) in units.into_iter().enumerate().filter(|(_, unit)| !monitor.is_frozen(*unit)) {
//!         let now = gradient(unit, step);
//!         if wants.measure_gradients {
//!             let before = previous[i].as_ref().map(|g| &g[..]);
//!             measured.push((unit, vec![Measurement::of_gradient(wants.norm, [2, 2], &now, before)?]));
//!         }
//!         previous[i] = wants.keep_gradient.then_some(now);
//!     }
//!     let decision = monitor.observe(step, &measured);
//!     for unit in decision.freeze {
//!         // … no gradient, no update, no optimizer state for `unit` from here on …
//!         assert_eq!((step, unit), (4, units[0]));
//!     }
//!     if decision.stop.is_some() {
//!         break;
//!     }
//!     // … the optimizer's update of the units that still train …
//! }
//!
//! // ‖∇W_t − ∇W_{t−1}‖ of the first matrix: 1/2 − 1/3 = 0.17 at step 3, 1/3 − 1/4 = 0.08 < 0.1 at step 4.
//! assert_eq!(monitor.frozen_at(units[0]), Some(4));
//! assert!(!monitor.is_frozen(units[1]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A loop that offers several methods builds a [`Policy`] from [`EarlyStopping`] instead and treats them all alike.

mod auto;
mod check;
mod companion;
mod config;
mod decision;
mod event;
mod exact;
mod flops;
mod gain;
mod monitor;
mod name;
mod norm;
pub mod policy;
mod preset;
mod replay;
#[cfg(feature = "schema")]
mod schema;
mod signal;
mod staircase;
mod state;
mod threshold;
mod unit;

pub use auto::{AutoTau, FreezeBy, JudgedTensors};
pub use check::ConfigError;
pub use companion::{Companion, Companions};
pub use config::Config;
pub use decision::{Decision, Mask, PartId, Plan, Wants, Worth};
pub use event::{Event, StopReason};
pub use flops::Flops;
pub use gain::{StepGains, UnitGain};
pub use monitor::Monitor;
pub use name::NameError;
pub use norm::{Norm, ShapeError};
pub use policy::{
    Cost, EarlyStopping, Elements, Method, Observation, Policy, PolicyMemory, PolicyState, RatePart, RunFacts, Spent,
};
pub use preset::Preset;
pub use replay::{Replay, TraceStep, replay};
pub use signal::{Measurement, Signal};
pub use state::{MonitorState, RestoreError};
pub use threshold::{Tau, TauKey};
pub use unit::{Kind, ParseUnitError, Role, Tower, UnitId};
