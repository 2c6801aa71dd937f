//! A loaded model as the evaluation sees it.

use std::sync::Arc;

use grades_models::{Decoder, Tokens, host};

use super::request::Batch;
use super::score::{LogLikelihood, ModelError};

impl LogLikelihood for Decoder {
    fn log_likelihoods(&mut self, batch: &Batch) -> Result<Vec<f32>, ModelError> {
        let tokens = Tokens { ids: Arc::new(batch.ids.clone()), layout: Arc::new(batch.layout.clone()) };
        let scores = Self::log_likelihoods(self, &tokens, &batch.labels);
        Ok(host::read("log-likelihoods", &scores, <[f32]>::to_vec)?)
    }
}
