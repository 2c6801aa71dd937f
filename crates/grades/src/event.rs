//! What happened and when, one object per line of an event log.

use serde::{Deserialize, Serialize};

use crate::companion::Companion;
use crate::decision::Plan;
use crate::unit::UnitId;

/// Something a policy decided at a step (counted from 1; 0 is before training).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A unit froze.
    Freeze {
        /// The step.
        step: usize,
        /// The unit.
        unit: UnitId,
        /// Its signal at that step, where the policy has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<f64>,
    },
    /// A budget weighed the units against one another, and froze the least.
    Plan {
        /// The step.
        step: usize,
        /// The order.
        #[serde(flatten)]
        plan: Plan,
    },
    /// One tensor of a unit froze.
    FreezePart {
        /// The step.
        step: usize,
        /// The unit.
        unit: UnitId,
        /// The tensor's index in the unit: under LoRA 0 is A, 1 is B.
        part: usize,
    },
    /// A companion froze.
    FreezeCompanion {
        /// The step.
        step: usize,
        /// The companion.
        #[serde(flatten)]
        companion: Companion,
    },
    /// A unit trains again.
    Unfreeze {
        /// The step.
        step: usize,
        /// The unit.
        unit: UnitId,
    },
    /// A companion trains again.
    UnfreezeCompanion {
        /// The step.
        step: usize,
        /// The companion.
        #[serde(flatten)]
        companion: Companion,
    },
    /// A tensor trains under a mask.
    Mask {
        /// The step.
        step: usize,
        /// The unit.
        unit: UnitId,
        /// The tensor's index in the unit.
        part: usize,
        /// How many of its elements train on.
        kept: usize,
    },
    /// Training ended early.
    Stop {
        /// The step.
        step: usize,
        /// Why.
        reason: StopReason,
    },
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
    /// The budget is spent.
    Budget,
    /// The script ends.
    Script,
}

impl StopReason {
    /// The name used in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllFrozen => "all_frozen",
            Self::MaxFrozenShare => "max_frozen_share",
            Self::ValidationLoss => "validation_loss",
            Self::Budget => "budget",
            Self::Script => "script",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{Role, Tower};

    #[test]
    fn events_are_flat_json_objects() {
        let json = |event: &Event| {
            let text = serde_json::to_string(event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), *event);
            text
        };
        let unit = UnitId::language(3, Role::Q);
        assert_eq!(
            json(&Event::Freeze { step: 7, unit, signal: Some(0.5) }),
            r#"{"event":"freeze","step":7,"unit":"language.3.q","signal":0.5}"#
        );
        assert_eq!(
            json(&Event::FreezeCompanion { step: 7, companion: Companion::Norms { tower: Tower::Language, layer: 3 } }),
            r#"{"event":"freeze_companion","step":7,"companion":"norms","tower":"language","layer":3}"#
        );
        assert_eq!(
            json(&Event::Stop { step: 9, reason: StopReason::AllFrozen }),
            r#"{"event":"stop","step":9,"reason":"all_frozen"}"#
        );
    }
}
