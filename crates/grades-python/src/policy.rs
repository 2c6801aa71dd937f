//! A method at work in a run of another framework.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use grades::{
    Companion, EarlyStopping, Elements, Norm, Observation, PartId, PolicyState, RatePart, RunFacts, Spent, StepGains,
    Tower, UnitGain, UnitId,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::convert::{Norms, bytes, companion, floats, measurement, part, unit};
use crate::value_error;

/// What a step's observation needs, and what is to be kept for a later one.
#[pyclass(frozen, get_all, module = "gradestop._core")]
pub(crate) struct Wants {
    /// Measure the gradients.
    measure_gradients: bool,
    /// Measure how far the weights have moved.
    measure_weights: bool,
    /// The norm of both.
    norm: &'static str,
    /// Keep this step's gradients.
    keep_gradient: bool,
    /// Keep a copy of the weights as they are after this step.
    keep_weight: bool,
    /// Pass the elements of the gradients.
    gradients: bool,
    /// Pass the elements of the weights.
    weights: bool,
    /// Compute the validation loss and pass it.
    validation_loss: bool,
    /// Find the gain of the update before.
    gain: bool,
    /// Whether the step needs nothing.
    idle: bool,
    /// Whether the observation is made after the update.
    after_update: bool,
}

impl From<grades::Wants> for Wants {
    fn from(wants: grades::Wants) -> Self {
        Self {
            measure_gradients: wants.measure_gradients,
            measure_weights: wants.measure_weights,
            norm: wants.norm.name(),
            keep_gradient: wants.keep_gradient,
            keep_weight: wants.keep_weight,
            gradients: wants.gradients,
            weights: wants.weights,
            validation_loss: wants.validation_loss,
            gain: wants.gain,
            idle: wants.is_idle(),
            after_update: wants.after_update(),
        }
    }
}

/// What the training loop does after an observation.
#[pyclass(frozen, get_all, module = "gradestop._core")]
pub(crate) struct Decision {
    /// The step observed.
    step: usize,
    /// Units that freeze now.
    freeze: Vec<String>,
    /// Single tensors that freeze now, as (unit, index).
    freeze_parts: Vec<(String, usize)>,
    /// Units that train again from now on.
    unfreeze: Vec<String>,
    /// Companions that freeze now, as (`norms` or `embedding`, tower, layer).
    freeze_companions: Vec<(&'static str, &'static str, Option<usize>)>,
    /// Companions that train again from now on.
    unfreeze_companions: Vec<(&'static str, &'static str, Option<usize>)>,
    /// Elements that go on training, as (unit, index, one flag an element).
    masks: Vec<(String, usize, Vec<bool>)>,
    /// Keep a copy of the weights.
    save_best: bool,
    /// Put that copy back.
    restore_best: bool,
    /// Why training ends, if it does.
    stop: Option<&'static str>,
    /// The signal of every unit that was measured.
    signals: Vec<(String, f64)>,
    /// The decision as lines of an event log, each a JSON object.
    events: Vec<String>,
}

impl Decision {
    fn of(decision: grades::Decision) -> PyResult<Self> {
        let names = |units: &[UnitId]| units.iter().map(ToString::to_string).collect();
        let companions = |all: &[Companion]| all.iter().map(|one| companion(*one)).collect();
        let events = decision.events();
        let events = events.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(value_error)?;
        Ok(Self {
            step: decision.step,
            freeze: names(&decision.freeze),
            freeze_parts: decision.freeze_parts.iter().map(|tensor| part(*tensor)).collect(),
            unfreeze: names(&decision.unfreeze),
            freeze_companions: companions(&decision.freeze_companions),
            unfreeze_companions: companions(&decision.unfreeze_companions),
            save_best: decision.save_best,
            restore_best: decision.restore_best,
            stop: decision.stop.map(|reason| reason.name()),
            signals: decision.signals.iter().map(|(unit, value)| (unit.to_string(), *value)).collect(),
            masks: decision
                .masks
                .into_iter()
                .map(|mask| (mask.tensor.unit.to_string(), mask.tensor.part, mask.keep))
                .collect(),
            events,
        })
    }
}

/// A method at work in one run.
#[pyclass(module = "gradestop._core")]
pub(crate) struct Policy {
    options: EarlyStopping,
    /// Any thread may hold the object.
    policy: Mutex<Box<dyn grades::Policy>>,
}

impl Policy {
    fn policy(&self) -> MutexGuard<'_, Box<dyn grades::Policy>> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The elements of tensors, each as (unit, index, f32 in the machine's order).
type Arrays = Vec<(String, usize, Vec<u8>)>;

/// The same, read.
fn arrays(arrays: Arrays) -> PyResult<Vec<(PartId, Vec<f32>)>> {
    let read =
        |(name, part, bytes): (String, usize, Vec<u8>)| Ok((PartId { unit: unit(&name)?, part }, floats(&bytes)));
    arrays.into_iter().map(read).collect()
}

fn elements(arrays: &[(PartId, Vec<f32>)]) -> Vec<Elements<'_>> {
    arrays.iter().map(|(tensor, values)| Elements { tensor: *tensor, values }).collect()
}

#[pymethods]
impl Policy {
    /// A method with options (JSON) for a run of `planned_steps` steps over these units. Where the steps of one epoch are not known,
    /// the run is taken for one epoch.
    #[new]
    #[pyo3(signature = (options, units, planned_steps, warmup_steps=0, epoch_steps=None, seed=0))]
    fn new(
        options: &str,
        units: Vec<String>,
        planned_steps: usize,
        warmup_steps: usize,
        epoch_steps: Option<usize>,
        seed: u64,
    ) -> PyResult<Self> {
        let options: EarlyStopping = serde_json::from_str(options).map_err(value_error)?;
        let facts = RunFacts { warmup_steps, epoch_steps: epoch_steps.unwrap_or(planned_steps), seed };
        let options = options.for_run(&facts);
        let units = units.iter().map(|name| unit(name)).collect::<PyResult<Vec<_>>>()?;
        let policy = options.build(&units, planned_steps).map_err(value_error)?;
        Ok(Self { options, policy: Mutex::new(policy) })
    }

    /// The method's name.
    #[getter]
    fn name(&self) -> &'static str {
        self.policy().name()
    }

    /// The options with what the run told, as JSON.
    #[getter]
    fn options(&self) -> PyResult<String> {
        serde_json::to_string(&self.options).map_err(value_error)
    }

    /// Whether the method is defined for LoRA adapter pairs only.
    #[getter]
    fn needs_lora(&self) -> bool {
        self.options.needs_lora()
    }

    /// Whether the method decides by the validation loss.
    #[getter]
    fn needs_validation(&self) -> bool {
        self.options.needs_validation()
    }

    /// What is measured, in which norm, and whether a signal `above` or `below` its threshold freezes; `None` where the method has no
    /// signal.
    #[getter]
    fn signal(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let (signal, norm) = self.policy().signal()?;
        Some((signal.name(), norm.name(), if signal.passes(1.0, 0.0) { "above" } else { "below" }))
    }

    /// What the signal of a unit is compared with, where the method has such a number.
    fn threshold(&self, name: &str) -> PyResult<Option<f64>> {
        Ok(self.policy().threshold(unit(name)?))
    }

    /// What step `step` needs; steps count from 1, and 0 is before the first.
    fn wants(&self, step: usize) -> Wants {
        self.policy().wants(step).into()
    }

    /// Takes what was measured at a step and decides. `measurements` has for each unit that trains one tuple for each tensor:
    /// ‖∇W_t‖, ‖∇W_{t−1}‖, ‖∇W_t − ∇W_{t−1}‖, ‖W_t − W_s‖, of which any may be `None`.
    /// `training_loss` is the mean over all batches of the step and all processes, `None` where it is not known.
    #[pyo3(signature = (step, measurements, gradients=Vec::new(), weights=Vec::new(), training_loss=None, validation_loss=None, flops=0, seconds=0.0))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python, where one observation is one call")]
    fn observe(
        &self,
        step: usize,
        measurements: Vec<(String, Vec<Norms>)>,
        gradients: Arrays,
        weights: Arrays,
        training_loss: Option<f64>,
        validation_loss: Option<f64>,
        flops: u64,
        seconds: f64,
    ) -> PyResult<Decision> {
        let read =
            |(name, parts): (String, Vec<Norms>)| Ok((unit(&name)?, parts.into_iter().map(measurement).collect()));
        let measurements = measurements.into_iter().map(read).collect::<PyResult<Vec<_>>>()?;
        let (gradients, weights) = (arrays(gradients)?, arrays(weights)?);
        Decision::of(self.policy().observe(
            step,
            &Observation {
                measurements: &measurements,
                gradients: &elements(&gradients),
                weights: &elements(&weights),
                training_loss,
                validation_loss,
                spent: Spent { flops, seconds },
            },
        ))
    }

    /// Takes the gains that were found of the update before step `step`: of each unit (name, gain in nats, arithmetic that its
    /// freezing would save, bytes that it would free), of all other parameters together, the arithmetic of the step, and the bytes
    /// of the gradients and the optimizer state of all that trains.
    fn observe_gains(
        &self,
        step: usize,
        units: Vec<(String, f64, u64, u64)>,
        others: f64,
        flops: u64,
        held: u64,
    ) -> PyResult<()> {
        let read = |(name, gain, saves, bytes): (String, f64, u64, u64)| {
            Ok(UnitGain { unit: unit(&name)?, gain, saves, bytes })
        };
        let units = units.into_iter().map(read).collect::<PyResult<Vec<_>>>()?;
        self.policy().observe_gains(step, &StepGains { units: &units, others, flops, bytes: held });
        Ok(())
    }

    /// What the learning rate of a layer is multiplied by in step `step`; of what comes before the layers with `layer` `None`.
    fn rate_factor(&self, step: usize, tower: &str, layer: Option<usize>) -> PyResult<f64> {
        let tower: Tower = tower.parse().map_err(value_error)?;
        let part = layer.map_or(RatePart::Embedding { tower }, |layer| RatePart::Layer { tower, layer });
        Ok(self.policy().rate_factor(step, part))
    }

    /// All that was decided and still holds: what to apply before the first step, fresh or restored.
    fn in_force(&self) -> PyResult<Decision> {
        Decision::of(self.policy().in_force())
    }

    /// The units that are frozen.
    fn frozen(&self) -> Vec<String> {
        self.policy().frozen().iter().map(ToString::to_string).collect()
    }

    /// What must be saved to go on from here: JSON, and the arrays of the method by name.
    fn state(&self, py: Python<'_>) -> PyResult<(String, BTreeMap<String, Py<PyBytes>>)> {
        let mut state = self.policy().state();
        let buffers = std::mem::take(&mut state.buffers);
        let buffers = buffers.into_iter().map(|(name, values)| (name, PyBytes::new(py, &bytes(&values)).unbind()));
        Ok((serde_json::to_string(&state).map_err(value_error)?, buffers.collect()))
    }

    /// Goes on from a saved state, deciding as if never interrupted.
    fn restore(&self, state: &str, buffers: BTreeMap<String, Vec<u8>>) -> PyResult<()> {
        let mut state: PolicyState = serde_json::from_str(state).map_err(value_error)?;
        state.buffers = buffers.into_iter().map(|(name, bytes)| (name, floats(&bytes))).collect();
        self.policy().restore(state).map_err(value_error)
    }

    /// A norm of a matrix `[rows, columns]` given as f32 in the machine's order: the method's own, to check others against.
    #[staticmethod]
    fn norm(norm: &str, rows: usize, columns: usize, values: Vec<u8>) -> PyResult<f64> {
        let norm: Norm = serde_json::from_value(norm.into()).map_err(value_error)?;
        norm.of(&floats(&values), [rows, columns]).map_err(value_error)
    }
}
