//! What a policy asks the training loop for, and what it tells it to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::companion::Companion;
use crate::event::Event;
use crate::norm::Norm;
use crate::signal::Signal;
use crate::unit::UnitId;

/// What a policy needs of one optimiser step. The default asks for nothing.
///
/// Step 0 is the model before its first update; steps are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// Measure the units that still train, and pass [`Observation::measurements`](crate::Observation::measurements).
    pub measure: bool,
    /// The signal that is measured: tells which fields of [`Measurement`](crate::Measurement) are needed.
    pub signal: Signal,
    /// The norm to measure with.
    pub norm: Norm,
    /// Keep this step's gradients of the units that still train: the next step compares with them. A copy kept earlier
    /// can be released where this is false.
    pub keep_gradient: bool,
    /// Keep a copy of the weights as they are after this step's update.
    pub keep_weight: bool,
    /// Pass the elements of the gradients of the units that still train
    /// ([`Observation::gradients`](crate::Observation::gradients)).
    pub gradients: bool,
    /// Pass the elements of the weights as they are after this step's update
    /// ([`Observation::weights`](crate::Observation::weights)).
    pub weights: bool,
    /// Compute the validation loss after this step's update and pass it.
    pub validation_loss: bool,
}

impl Wants {
    /// Whether the step needs nothing of the loop: nothing measured, kept, passed or validated.
    pub fn is_idle(&self) -> bool {
        let Self { signal: _, norm: _, measure, keep_gradient, keep_weight, gradients, weights, validation_loss } =
            *self;
        !(measure || keep_gradient || keep_weight || gradients || weights || validation_loss)
    }

    /// Whether the observation can only be made after the optimiser's update of the step. Otherwise it is best made
    /// before: then a unit that freezes skips this very update, as in Algorithm 1. A loop that measures in the same
    /// pass as it updates may observe afterwards; its units freeze one update later.
    pub fn after_update(&self) -> bool {
        self.validation_loss || self.weights || (self.measure && self.signal == Signal::WeightChange)
    }
}

/// One tensor of a unit: under LoRA part 0 is A and part 1 is B; otherwise a unit has part 0 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    /// The unit.
    pub unit: UnitId,
    /// The tensor's index in the unit.
    pub part: usize,
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}#{}", self.unit, self.part))
    }
}

/// The elements of a tensor that go on training; all others are set to zero and stay there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// The tensor.
    pub tensor: PartId,
    /// For each element of the tensor, row-major, whether it trains.
    pub keep: Vec<bool>,
}

/// What the training loop does after an observation. Every list is in the order of [`UnitId`].
///
/// A frozen unit gets no weight gradient, no update, no weight decay and no momentum; its optimiser state and kept
/// gradient can be released, and gradients still flow through it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    /// The step observed.
    pub step: usize,
    /// Units that freeze now.
    pub freeze: Vec<UnitId>,
    /// Single tensors that freeze now while their unit goes on training.
    pub freeze_parts: Vec<PartId>,
    /// Units that train again from now on, with fresh optimiser state.
    pub unfreeze: Vec<UnitId>,
    /// Companions that freeze now.
    pub freeze_companions: Vec<Companion>,
    /// Companions that train again from now on.
    pub unfreeze_companions: Vec<Companion>,
    /// Masks to train under from now on.
    pub masks: Vec<Mask>,
    /// Keep a copy of the weights as they are after this step's update: they are the best so far.
    pub save_best: bool,
    /// Put the weights of the last `save_best` back: training ends, and they are better than the present ones.
    pub restore_best: bool,
    /// End training after this step.
    pub stop: Option<StopReason>,
    /// The signal of every unit that was measured, for logs.
    pub signals: Vec<(UnitId, f64)>,
}

impl Decision {
    /// The decision as lines of an event log.
    pub fn events(&self) -> Vec<Event> {
        let step = self.step;
        let signal = |unit: &UnitId| self.signals.iter().find(|(u, _)| u == unit).map(|(_, value)| *value);
        let mut events = Vec::new();
        events.extend(self.freeze.iter().map(|unit| Event::Freeze { step, unit: *unit, signal: signal(unit) }));
        events.extend(self.freeze_parts.iter().map(|p| Event::FreezePart { step, unit: p.unit, part: p.part }));
        events.extend(self.freeze_companions.iter().map(|c| Event::FreezeCompanion { step, companion: *c }));
        events.extend(self.unfreeze.iter().map(|unit| Event::Unfreeze { step, unit: *unit }));
        events.extend(self.unfreeze_companions.iter().map(|c| Event::UnfreezeCompanion { step, companion: *c }));
        events.extend(self.masks.iter().map(|m| Event::Mask {
            step,
            unit: m.tensor.unit,
            part: m.tensor.part,
            kept: m.keep.iter().filter(|keep| **keep).count(),
        }));
        events.extend(self.stop.map(|reason| Event::Stop { step, reason }));
        events
    }
}

/// Why a policy ends training before the planned steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Every unit is frozen (Algorithm 1, line 20).
    AllFrozen,
    /// The share of `max_frozen_share` is frozen.
    MaxFrozenShare,
    /// The validation loss has not improved for `patience` checks.
    ValidationLoss,
}

impl StopReason {
    /// The name used in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllFrozen => "all_frozen",
            Self::MaxFrozenShare => "max_frozen_share",
            Self::ValidationLoss => "validation_loss",
        }
    }
}
