//! What a method is to the training loop, and the training loop to a method.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::check::ConfigError;
use crate::decision::{Decision, PartId, Wants};
use crate::gain::StepGains;
use crate::norm::Norm;
use crate::signal::{Measurement, Signal};
use crate::state::RestoreError;
use crate::unit::{Tower, UnitId};

/// The elements of one tensor `[rows, cols]`, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elements<'a> {
    /// The tensor.
    pub tensor: PartId,
    /// Its elements, or those of its gradient.
    pub values: &'a [f32],
}

/// What the training loop knows of one step: as much of it as [`Wants`] asked for, the rest empty. [`Wants`] says when
/// each part is taken.
///
/// The tensors of a unit are its matrices: one, or A and B of a LoRA pair; of a fused projection's units the rows that
/// are theirs. Biases freeze with their matrix and are neither measured nor passed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Observation<'a> {
    /// For each unit of which something trains, one measurement for each of its tensors that train, in their order.
    /// Where gradients and weights are measured, the one measurement holds both.
    pub measurements: &'a [(UnitId, Vec<Measurement>)],
    /// The gradients of the tensors that train, of this step, before clipping.
    pub gradients: &'a [Elements<'a>],
    /// The weights of all tensors of the units, frozen ones too, after this step's update.
    pub weights: &'a [Elements<'a>],
    /// The mean loss per predicted token over the batches of this step, before its update (of preferences that per row); known
    /// at every step, `None` where the loop does not see it.
    pub training_loss: Option<f64>,
    /// The mean loss per predicted token over the validation set after this step's update; `None` also where there is
    /// no validation set.
    pub validation_loss: Option<f64>,
    /// What the run has spent so far, always known.
    pub spent: Spent,
}

/// What a run has spent, on training, validation and monitoring.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Executed floating-point operations, with those of the present step's passes.
    pub flops: u64,
    /// Seconds of the steps before.
    pub seconds: f64,
}

/// What a policy has spent on its own checks, and what the loop has measured and validated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Measurements of a tensor's norms that the loop made for it.
    pub measurements: u64,
    /// Validations that the loop made for it.
    pub validations: u64,
    /// Floating-point operations on the elements passed to it.
    pub operations: u64,
    /// Bytes that it keeps between steps now.
    pub bytes: u64,
}

/// What a run tells its method before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunFacts {
    /// Steps of the learning rate's warm-up.
    pub warmup_steps: usize,
    /// Steps of one epoch.
    pub epoch_steps: usize,
    /// The seed of everything random in the run, for methods that draw.
    pub seed: u64,
}

/// What a method may give a learning rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RatePart {
    /// What comes before the layers of a tower.
    Embedding {
        /// The tower.
        tower: Tower,
    },
    /// The same where it is the head too, as which it trains on when it is frozen as input.
    TiedEmbedding {
        /// The tower.
        tower: Tower,
    },
    /// A layer with all its matrices, biases and norms.
    Layer {
        /// The tower that holds the layer.
        tower: Tower,
        /// The layer's index in its tower, from 0.
        layer: usize,
    },
    /// What comes after the layers, or belongs to no tower: the final norm, the head.
    Rest,
}

/// The options of a method, as a config file writes them: what is known of the method before it runs.
///
/// One that an [`EarlyStopping`](crate::EarlyStopping) lists also has defaults, and reads and writes itself with serde,
/// refusing unknown keys.
pub trait Method {
    /// The name that a config writes as `method`.
    fn name(&self) -> &'static str;

    /// Whether the method is defined for LoRA adapter pairs only. A policy cannot tell pairs from whole weights: check
    /// before building.
    fn needs_lora(&self) -> bool {
        false
    }

    /// Whether the method decides by the validation loss, and so by nothing where there is no validation set.
    fn needs_validation(&self) -> bool {
        false
    }

    /// Whether the roles inside a fused projection are units of their own.
    fn split_fused(&self) -> bool {
        true
    }

    /// Whether what froze may train again.
    fn unfreezes(&self) -> bool {
        false
    }

    /// Fills in what the run tells and the options leave out.
    fn fill_in(&mut self, facts: &RunFacts) {
        let _ = facts;
    }

    /// Checks every option that can be checked without a model.
    ///
    /// # Errors
    /// The first option whose value cannot be used.
    fn validate(&self) -> Result<(), ConfigError>;

    /// The policy for a run of `planned_steps` optimizer steps over these units.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), and if the options do not fit the units or the steps.
    fn build(&self, units: &[UnitId], planned_steps: usize) -> Result<Box<dyn Policy>, ConfigError>;
}

/// A method at work in one run.
pub trait Policy: fmt::Debug + Send {
    /// The name that a config writes as `method`.
    fn name(&self) -> &'static str;

    /// What this step's observation needs. Asked for every step, beginning with 0.
    fn wants(&self, step: usize) -> Wants;

    /// Takes what was measured at a step and decides. Called for each step whose [`Wants`] are not idle; calling it for
    /// others does no harm. A value that is missing or not finite never freezes or stops anything.
    fn observe(&mut self, step: usize, observation: &Observation<'_>) -> Decision;

    /// Takes the gains that the update of step `step` has found of the update before it, where [`Wants::gain`] asked for
    /// them; they count in the decisions of later steps.
    fn observe_gains(&mut self, step: usize, gains: &StepGains<'_>) {
        let _ = (step, gains);
    }

    /// What the learning rate of a part is multiplied by in the update of step `step`, counted from 1: a function of the
    /// step alone, which decisions and a restored state do not change. It counts where the rate does, so weight decay that is decoupled
    /// scales with it, and at 0 the optimizer's moments still move, as with a parameter group of PyTorch.
    fn rate_factor(&self, step: usize, part: RatePart) -> f64 {
        let _ = (step, part);
        1.0
    }

    /// All that was decided and still holds, as one decision: what to apply to a model before its first step, freshly
    /// started or restored. Some methods freeze something from the beginning.
    fn in_force(&self) -> Decision;

    /// The units that are frozen, in order.
    fn frozen(&self) -> Vec<UnitId> {
        self.in_force().freeze
    }

    /// What [`Decision::signals`] are, for reports; `None` where the method has none.
    fn signal(&self) -> Option<(Signal, Norm)> {
        None
    }

    /// What a unit's signal is compared with, for reports; `None` where the method has no such number.
    fn threshold(&self, unit: UnitId) -> Option<f64> {
        let _ = unit;
        None
    }

    /// What its checks have cost so far; nothing by default.
    fn cost(&self) -> Cost {
        Cost::default()
    }

    /// What must be saved to go on from here.
    fn state(&self) -> PolicyState;

    /// Goes on from a saved state, deciding as if never interrupted.
    ///
    /// # Errors
    /// If the state is of another method, config or model, or damaged. The policy is then unchanged.
    fn restore(&mut self, state: PolicyState) -> Result<(), RestoreError>;
}

/// What a policy must remember.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyState {
    /// Everything small.
    pub memory: PolicyMemory,
    /// What the checks had cost.
    pub cost: Cost,
    /// Arrays of the size of the monitored tensors, empty for most methods. Take them out and write them beside the
    /// weights where a text format would grow too large, and put them back before restoring.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub buffers: BTreeMap<String, Vec<f32>>,
}

/// The small part of what a policy must remember, written as a map with the name of its method as `method`. What else
/// is in it only the method knows.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyMemory {
    method: String,
    /// Or why it could not be made, which the one who writes it is told.
    fields: Result<Map<String, Value>, String>,
}

/// The key of the method's name.
const METHOD: &str = "method";

impl PolicyMemory {
    /// The memory of a method: of a struct, whose fields have other names than `method`.
    pub fn new(method: &'static str, memory: &impl Serialize) -> Self {
        let fields = match serde_json::to_value(memory) {
            Ok(Value::Object(fields)) if !fields.contains_key(METHOD) => Ok(fields),
            Ok(_) => Err(format!("the memory of the method `{method}` is not a map without the key `{METHOD}`")),
            Err(error) => Err(format!("the memory of the method `{method}` cannot be written: {error}")),
        };
        Self { method: method.to_owned(), fields }
    }

    /// The method it belongs to.
    pub fn name(&self) -> &str {
        &self.method
    }

    /// What [`new`](Self::new) was given.
    ///
    /// # Errors
    /// If it belongs to another method than `method`, or is damaged.
    pub fn read<T: DeserializeOwned>(self, method: &'static str) -> Result<T, RestoreError> {
        if self.method != method {
            return Err(RestoreError::Policy { saved: self.method, current: method });
        }
        let damaged = |reason| RestoreError::Damaged { method, reason };
        T::deserialize(Value::Object(self.fields.map_err(damaged)?)).map_err(|error| damaged(error.to_string()))
    }
}

impl Serialize for PolicyMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.fields.as_ref().map_err(S::Error::custom)?;
        let mut map = serializer.serialize_map(Some(1 + fields.len()))?;
        map.serialize_entry(METHOD, &self.method)?;
        fields.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for PolicyMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Tagged {
            method: String,
            #[serde(flatten)]
            fields: Map<String, Value>,
        }
        let Tagged { method, fields } = Tagged::deserialize(deserializer)?;
        Ok(Self { method, fields: Ok(fields) })
    }
}

/// Fails unless both runs have the same options and planned steps.
pub(super) fn check_run_of<C: fmt::Debug>(saved: (&C, usize), current: (&C, usize)) -> Result<(), RestoreError> {
    // Compared as the text that the error shows, so that it never says that two equal texts differ.
    let (of_saved, of_current) = (format!("{:?}", saved.0), format!("{:?}", current.0));
    if of_saved != of_current {
        return Err(RestoreError::Config { saved: of_saved, current: of_current });
    }
    if saved.1 != current.1 {
        return Err(RestoreError::PlannedSteps { saved: saved.1, current: current.1 });
    }
    Ok(())
}

/// Takes an array out of a saved state.
pub(super) fn take_buffer(
    buffers: &mut BTreeMap<String, Vec<f32>>,
    name: String,
    expected: Option<usize>,
) -> Result<Vec<f32>, RestoreError> {
    match buffers.remove(&name) {
        Some(values) if expected.is_none_or(|len| len == values.len()) => Ok(values),
        _ => Err(RestoreError::Buffer { name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Memory {
        step: usize,
    }

    fn read(json: &str) -> Result<Memory, RestoreError> {
        serde_json::from_str::<PolicyMemory>(json).unwrap().read("mine")
    }

    #[test]
    fn the_memory_of_any_method_is_a_map_with_its_name() {
        let memory = PolicyMemory::new("mine", &Memory { step: 3 });
        let json = serde_json::to_string(&memory).unwrap();
        assert_eq!(json, r#"{"method":"mine","step":3}"#);
        assert_eq!(serde_json::from_str::<PolicyMemory>(&json).unwrap(), memory);
        assert_eq!((memory.name(), read(&json)), ("mine", Ok(Memory { step: 3 })));
        assert_eq!(read(r#"{"step": 3, "method": "mine"}"#), Ok(Memory { step: 3 }));
    }

    #[test]
    fn a_memory_that_is_not_this_methods_is_refused() {
        let other = read(r#"{"method": "yours", "step": 3}"#);
        assert_eq!(other, Err(RestoreError::Policy { saved: "yours".to_owned(), current: "mine" }));
        for json in
            [r#"{"method": "mine"}"#, r#"{"method": "mine", "step": -1}"#, r#"{"method": "mine", "step": 3, "x": 1}"#]
        {
            let error = read(json).unwrap_err();
            assert!(matches!(error, RestoreError::Damaged { method: "mine", .. }), "{json}");
            assert!(error.to_string().contains("complete checkpoint"), "{error}");
        }
        assert!(serde_json::from_str::<PolicyMemory>(r#"{"step": 3}"#).is_err());
    }

    #[test]
    fn a_memory_that_cannot_be_written_is_an_error_where_it_is_written() {
        let keys = BTreeMap::from([((1, 2), 3)]);
        for memory in [
            PolicyMemory::new("mine", &7),
            PolicyMemory::new("mine", &keys),
            PolicyMemory::new("mine", &BTreeMap::from([("method", 1)])),
        ] {
            assert!(serde_json::to_string(&memory).unwrap_err().to_string().contains("`mine`"), "{memory:?}");
            assert!(matches!(memory.read::<Memory>("mine"), Err(RestoreError::Damaged { .. })));
        }
    }
}
