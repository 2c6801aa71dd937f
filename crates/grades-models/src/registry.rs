//! From a checkpoint's config to its model: one line a family.

use burn::tensor::Device;

use crate::Error;
use crate::config::HfConfig;
use crate::families::{llama, mistral, qwen2};
use crate::nn::{Decoder, DecoderConfig};
use crate::parameters::Source;

type Family = (&'static str, fn(&HfConfig) -> Result<DecoderConfig, Error>);

/// Every architecture by its `model_type`.
const FAMILIES: &[Family] = &[("llama", llama::decoder), ("mistral", mistral::decoder), ("qwen2", qwen2::decoder)];

/// The architectures that can be loaded, by their `model_type`.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

/// The sizes of the model that a config describes.
///
/// # Errors
/// When the architecture is unknown or the config is not sound.
pub fn decoder_config(config: &HfConfig) -> Result<DecoderConfig, Error> {
    let found = config.model_type()?;
    match FAMILIES.iter().find(|(name, _)| *name == found) {
        Some((_, decoder)) => decoder(config),
        None => Err(Error::Family { found, known: families().collect::<Vec<_>>().join(", ") }),
    }
}

/// The model of a config with the values of a source.
///
/// # Errors
/// As [`decoder_config`] and [`Decoder::load`].
pub fn load(config: &HfConfig, source: &dyn Source, device: &Device) -> Result<Decoder, Error> {
    Decoder::load(decoder_config(config)?, source, device)
}
