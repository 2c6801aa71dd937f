//! From a checkpoint's config to its model: one line a family.

use burn::tensor::Device;
use grades_kernels::quant::PackedMatrix;

use crate::Error;
use crate::config::HfConfig;
use crate::families::{llama, mistral, qwen2};
use crate::nn::{Decoder, DecoderConfig};
use crate::parameters::{Source, Storage};
use crate::weights::Checkpoint;

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
    load_as(config, source, device, Storage::Dense)
}

/// As [`load`], with the projection matrices held as `storage` says.
///
/// # Errors
/// As [`decoder_config`] and [`Decoder::load_as`].
pub fn load_as(config: &HfConfig, source: &dyn Source, device: &Device, storage: Storage) -> Result<Decoder, Error> {
    Decoder::load_as(decoder_config(config)?, source, device, storage)
}

/// The model of a checkpoint on disk, read tensor by tensor.
///
/// # Errors
/// As [`load`], and if a file cannot be read.
pub fn open(checkpoint: &Checkpoint, device: &Device) -> Result<Decoder, Error> {
    open_as(checkpoint, device, Storage::Dense)
}

/// As [`open`], with the projection matrices held as `storage` says.
///
/// # Errors
/// As [`load_as`], and if a file cannot be read.
pub fn open_as(checkpoint: &Checkpoint, device: &Device, storage: Storage) -> Result<Decoder, Error> {
    load_as(&HfConfig::new(checkpoint.config()?.clone())?, checkpoint, device, storage)
}

impl Source for Checkpoint {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.info(name).ok().map(|info| info.shape.clone())
    }

    fn load(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.load_f32(name)?)
    }

    fn load_packed(&self, name: &str, _: [usize; 2]) -> Result<PackedMatrix, Error> {
        Ok(self.packed(name)?)
    }
}
