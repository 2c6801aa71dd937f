//! From a checkpoint's config to its model: one line a family.

use grades_kernels::quant::PackedMatrix;

use crate::Error;
use crate::config::{HfConfig, Sizes};
use crate::families::{llama, mistral, phi3, qwen2, qwen3};
use crate::model::{Decoder, Wiring};
use crate::source::{Builder, LoadOptions, Source};
use crate::weights::Checkpoint;

/// Puts a model together from its config and the tensors of a source.
type Build = fn(&HfConfig, &Sizes, &mut Builder<'_>) -> Result<Wiring, Error>;

/// Every architecture by its `model_type`.
const FAMILIES: &[(&str, Build)] = &[
    ("llama", llama::build),
    ("mistral", mistral::build),
    ("phi3", phi3::build),
    ("qwen2", qwen2::build),
    ("qwen3", qwen3::build),
];

/// The architectures that can be loaded, by their `model_type`.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name)
}

fn family(config: &HfConfig) -> Result<Build, Error> {
    let found = config.model_type()?;
    match FAMILIES.iter().find(|(name, _)| *name == found) {
        Some((_, build)) => Ok(*build),
        None => Err(Error::Family { found, known: families().collect::<Vec<_>>().join(", ") }),
    }
}

/// The sizes of the model that a config describes.
///
/// # Errors
/// When the architecture is unknown or the config is not sound.
pub fn sizes(config: &HfConfig) -> Result<Sizes, Error> {
    family(config)?;
    config.sizes()
}

/// The model of a config with the values of a source.
///
/// # Errors
/// As [`sizes`], when a tensor is missing, cannot be read, or has another shape than the config says, and if a matrix to be
/// packed holds what is no finite number.
pub fn load(config: &HfConfig, source: &dyn Source, options: LoadOptions) -> Result<Decoder, Error> {
    let (build, sizes) = (family(config)?, config.sizes()?);
    let mut builder = Builder::new(source, options);
    let wiring = build(config, &sizes, &mut builder)?;
    Ok(Decoder::new(sizes, wiring, builder.finish()))
}

/// The model of a checkpoint on disk, read tensor by tensor.
///
/// # Errors
/// As [`load`], and if a file cannot be read.
pub fn open(checkpoint: &Checkpoint, options: LoadOptions) -> Result<Decoder, Error> {
    load(&HfConfig::new(checkpoint.config()?.clone())?, checkpoint, options)
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
