//! A vision tower alone, without a language model.

use grades_tensor::{Dtype, Tape, Var};

use super::vision::{Pictures, Vision};
use crate::nn::Run;
use crate::parameters::Parameters;

/// A vision tower alone.
#[derive(Debug)]
pub struct Encoder {
    vision: Vision,
    parameters: Parameters,
    dtype: Dtype,
}

impl Encoder {
    pub(crate) fn new(vision: Vision, parameters: Parameters) -> Self {
        Self { vision, parameters, dtype: Dtype::F32 }
    }

    /// What reads pictures.
    #[must_use]
    pub fn vision(&self) -> &Vision {
        &self.vision
    }

    /// All parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All parameters.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Sets the dtype of its products and of the activations between them.
    pub fn set_dtype(&mut self, dtype: Dtype) {
        self.dtype = dtype;
    }

    /// The normed output of its last layer, `[rows, hidden]`, with class tokens where it has some.
    #[must_use]
    pub fn hidden(&self, tape: &Tape, pictures: &Pictures) -> Var {
        let Self { vision, parameters, dtype } = self;
        let run = Run { tape, parameters, adapting: None, dropout: None, balance: None, dtype: *dtype };
        vision.rows(run, pictures)
    }
}
