//! The names of adapters' tensors in PEFT's files.

/// Before a module's name.
pub(super) const PREFIX: &str = "base_model.model.";

/// After a module's name: the magnitudes of DoRA.
pub(super) const MAGNITUDE: &str = ".lora_magnitude_vector";
