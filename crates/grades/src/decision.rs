//! What a policy asks the training loop for, and what it tells it to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::companion::Companion;
use crate::event::{Event, StopReason};
use crate::exact;
use crate::norm::Norm;
use crate::unit::UnitId;

/// What a policy needs of one optimizer step, in any combination. The default asks for nothing.
///
/// The loop makes **one** [`Observation`](crate::Observation) of a step, which holds all that is asked for, and gets one
/// [`Decision`]. In the order of a step:
///
/// 1. After the backward pass: what is asked of *gradients*. A gradient is always that of this step as the optimizer
///    gets it: the mean over the accumulated micro-batches, after the all-reduce of distributed training, with the
///    elements that a [`Mask`] leaves out at zero, before clipping.
/// 2. Unless [`after_update`](Self::after_update): the observation and its decision, so that a unit that freezes skips
///    this very update, as in Algorithm 1.
/// 3. The update.
/// 4. What is asked of *weights*, and the validation loss: always after the update.
/// 5. If [`after_update`](Self::after_update): the observation and its decision. It holds the gradients of point 1
///    beside what point 4 gave. A unit that freezes has got this update.
/// 6. What is to be kept, of the tensors that train on after the decision.
///
/// Step 0 is the model before its first update, steps are counted from 1. At step 0 there are neither gradients nor a
/// copy to compare weights with: what is asked of them stays empty, and points 4 to 6 do the rest. Where a policy asks
/// for keeping alone, the loop may observe with nothing in it or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// Measure the gradients: [`Measurement::gradient`](crate::Measurement::gradient), and where the gradient of the
    /// step before was kept also `previous` and `change`.
    pub measure_gradients: bool,
    /// Measure how far the weights have moved: [`Measurement::weight_change`](crate::Measurement::weight_change),
    /// against the copy kept last, where there is one.
    pub measure_weights: bool,
    /// The norm of both.
    pub norm: Norm,
    /// Keep this step's gradients: the next step compares with them. Those of the step before are then no longer needed,
    /// nor are they where this is false.
    pub keep_gradient: bool,
    /// Keep a copy of the weights as they are after this step's update (at step 0 as they are). It stays until it is
    /// replaced.
    pub keep_weight: bool,
    /// Pass the elements of the gradients ([`Observation::gradients`](crate::Observation::gradients)).
    pub gradients: bool,
    /// Pass the elements of the weights ([`Observation::weights`](crate::Observation::weights)).
    pub weights: bool,
    /// Compute the validation loss and pass it.
    pub validation_loss: bool,
    /// Find in this step's update the gain of the update before, −⟨∇W_t, W_{t−1} − W_{t−2}⟩ of every parameter that
    /// trains, and pass it to [`Policy::observe_gains`](crate::Policy::observe_gains). With optimizers whose state does not
    /// tell the last update there is none.
    pub gain: bool,
    /// Be asked for a decision, though nothing may be measured or passed: of what is [spent](crate::Observation::spent), or
    /// of the step alone.
    pub decide: bool,
    /// Observe and decide after the update, whatever else is asked for: for methods that decide by the step alone.
    pub end_of_step: bool,
}

impl Wants {
    /// Whether the step needs nothing of the loop: nothing measured, kept, passed or validated.
    pub fn is_idle(&self) -> bool {
        *self == Self { norm: self.norm, ..Self::default() }
    }

    /// Whether the observation is made after the optimizer's update of the step, since it holds weights or the validation
    /// loss, or is to end the step.
    pub fn after_update(&self) -> bool {
        self.measure_weights || self.weights || self.validation_loss || self.end_of_step
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
/// A frozen unit gets no weight gradient, no update, no weight decay and no momentum; its optimizer state and kept
/// gradient can be released, and gradients still flow through it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    /// The step observed.
    pub step: usize,
    /// Units that freeze now.
    pub freeze: Vec<UnitId>,
    /// Single tensors that freeze now while their unit goes on training.
    pub freeze_parts: Vec<PartId>,
    /// Units that train again from now on, with fresh optimizer state.
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
    /// How the units that could freeze were weighed against one another, where the method does so.
    pub plan: Option<Plan>,
}

/// The order in which a budget freezes units: by what they gain for their share of the arithmetic, or of the memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The gain of a whole step, in nats: what a share of 1 is worth.
    #[serde(deserialize_with = "exact::number_or_nan")]
    pub gain: f64,
    /// Of every unit that trained, the least first.
    pub order: Vec<Worth>,
}

/// What a unit is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worth {
    /// The unit.
    pub unit: UnitId,
    /// Its gain by its share of what the budget counts, in nats a step.
    #[serde(deserialize_with = "exact::number_or_nan")]
    pub worth: f64,
    /// Whether it freezes now.
    pub freezes: bool,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frozen: Vec<&Worth> = self.order.iter().filter(|worth| worth.freezes).collect();
        let names: Vec<String> = frozen.iter().take(5).map(|worth| worth.unit.to_string()).collect();
        let more = if frozen.len() > names.len() { ", …" } else { "" };
        write!(
            f,
            "the budget freezes {} of {} matrices, those that gain least for what they cost: {}{more}",
            frozen.len(),
            self.order.len(),
            names.join(", ")
        )
    }
}

impl Decision {
    /// The decision as lines of an event log.
    pub fn events(&self) -> Vec<Event> {
        let step = self.step;
        let signal = |unit: &UnitId| self.signals.iter().find(|(u, _)| u == unit).map(|(_, value)| *value);
        let mut events = Vec::new();
        events.extend(self.plan.iter().map(|plan| Event::Plan { step, plan: plan.clone() }));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_observed_after_its_update_as_soon_as_one_part_needs_that() {
        let none = Wants { norm: Norm::Spectral, ..Wants::default() };
        assert!(none.is_idle() && !none.after_update());
        let before: [fn(&mut Wants); 6] = [
            |w| w.measure_gradients = true,
            |w| w.gradients = true,
            |w| w.keep_gradient = true,
            |w| w.keep_weight = true,
            |w| w.gain = true,
            |w| w.decide = true,
        ];
        let after: [fn(&mut Wants); 4] = [
            |w| w.measure_weights = true,
            |w| w.weights = true,
            |w| w.validation_loss = true,
            |w| w.end_of_step = true,
        ];
        let asks: Vec<_> = before.iter().chain(&after).collect();
        for combination in 1_usize..1 << asks.len() {
            let mut wants = none;
            let chosen = |bit: &usize| combination & (1 << bit) != 0;
            (0..asks.len()).filter(chosen).for_each(|bit| asks[bit](&mut wants));
            assert!(!wants.is_idle(), "{wants:?}");
            assert_eq!(wants.after_update(), combination >> before.len() != 0, "{wants:?}");
        }
    }
}
