//! Values on their way between Python and the method.

use grades::{Companion, Measurement, PartId, UnitId};
use pyo3::prelude::*;

use crate::value_error;

/// What was measured of one tensor: ‖∇W_t‖, ‖∇W_{t−1}‖, ‖∇W_t − ∇W_{t−1}‖, ‖W_t − W_s‖.
pub(crate) type Norms = (Option<f64>, Option<f64>, Option<f64>, Option<f64>);

pub(crate) fn measurement((gradient, previous, change, weight_change): Norms) -> Measurement {
    Measurement { gradient, previous, change, weight_change }
}

pub(crate) fn unit(name: &str) -> PyResult<UnitId> {
    name.parse().map_err(value_error)
}

/// The tensor of a unit as Python writes it.
pub(crate) fn part(tensor: PartId) -> (String, usize) {
    (tensor.unit.to_string(), tensor.part)
}

/// A companion as (`norms` or `embedding`, tower, layer).
pub(crate) fn companion(companion: Companion) -> (&'static str, &'static str, Option<usize>) {
    match companion {
        Companion::Norms { tower, layer } => ("norms", tower.name(), Some(layer)),
        Companion::Embedding { tower } => ("embedding", tower.name(), None),
    }
}

/// Numbers from the bytes of an array of f32 in the machine's order.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|number| f32::from_ne_bytes(*number)).collect()
}

/// The bytes of an array of f32 in the machine's order.
pub(crate) fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
