//! A loaded model as the evaluation sees it.

use std::sync::Arc;

use grades_models::{Decoder, Inputs};

use super::request::Batch;
use super::score::{LogLikelihood, ModelError};

impl LogLikelihood for Decoder {
    fn log_likelihoods(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let inputs = Inputs::tokens(Arc::new(batch.ids.clone()), Arc::new(batch.layout.clone()));
        Ok(Self::log_likelihoods(self, &inputs, &batch.labels).to_host().into_owned())
    }
}
