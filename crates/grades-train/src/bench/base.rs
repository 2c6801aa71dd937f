//! The model that is measured: its values, and the memory that they take before anything is beside them.

use grades_models::parameters::{Groups, Parameter};
use grades_models::random::Random;
use grades_models::source::{Form, LoadOptions, Source, Storage};
use grades_models::{Decoder, Error, registry};
use grades_tensor::{Dtype, device};
use half::bf16;

use super::BenchError;
use super::step_options::{Mode, StepOptions};
use crate::train::memory;

/// Seed of the values.
const SEED: u64 = 0;

/// Memory of a model without adapters, in bytes.
pub(super) struct Base {
    pub(super) bytes: u64,
    pub(super) bf16: u64,
    pub(super) matrices: u64,
    pub(super) matrices_bf16: u64,
    pub(super) loaded: Option<u64>,
    pub(super) loading_peak: Option<u64>,
}

impl Base {
    fn of(model: &Decoder) -> Self {
        let unit = |p: &Parameter| p.pieces().iter().all(|piece| piece.place.unit().is_some());
        let matrix = |p: &&Parameter| unit(p) && p.shape.len() == 2;
        let matrices = || model.parameters().iter().filter(matrix);
        Self {
            bytes: model.parameters().iter().map(|p| p.bytes() as u64).sum(),
            bf16: model.parameters().iter().map(|p| 2 * p.len() as u64).sum(),
            matrices: matrices().map(|p| p.bytes() as u64).sum(),
            matrices_bf16: matrices().map(|p| 2 * p.len() as u64).sum(),
            loaded: memory::resident(),
            loading_peak: memory::peak(),
        }
    }
}

/// The model of some options, and what it takes.
pub(super) fn load(options: &StepOptions) -> Result<(Decoder, Base), BenchError> {
    let device = device("cpu").map_err(|error| BenchError::Option(error.to_string()))?;
    let fixed = if options.mode == Mode::Full { Groups::default() } else { Groups::ALL };
    let load = LoadOptions { storage: Storage::in_4bit(options.load_in_4bit), fixed, ..LoadOptions::new(device) };
    let model = registry::load(&options.shape.config(), source(options).as_ref(), load)?;
    let base = Base::of(&model);
    Ok((model, base))
}

/// Where the values of the model come from.
pub(super) fn source(options: &StepOptions) -> Box<dyn Source> {
    match (options.mode, options.base) {
        (Mode::Lora | Mode::Forward, Dtype::Bf16) => Box::new(InBf16(Random::new(SEED))),
        _ => Box::new(Random::new(SEED)),
    }
}

/// Random values as a file in bf16 has them.
struct InBf16(Random);

impl Source for InBf16 {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let mut values = self.0.load(name, shape)?;
        values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        Ok(values)
    }

    fn load_scale(&self, name: &str, width: usize, offset: f32) -> Result<Vec<f32>, Error> {
        self.0.load_scale(name, width, offset)
    }

    fn form(&self, _: &str) -> Form {
        Form::Half
    }
}
