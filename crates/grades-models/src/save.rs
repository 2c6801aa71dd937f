//! A model in memory as a checkpoint in the Hugging Face layout.

use std::path::Path;

use serde_json::Value;

use crate::model::Decoder;
use crate::parameters::Parameter;
use crate::weights::{SaveOptions, TensorToSave, WeightsError, nf4_tensors, quantization_config, save_checkpoint};

/// How the projection matrices of a saved model are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matrices {
    /// As all weights.
    #[default]
    Dense,
    /// In NF4 with double quantisation, as bitsandbytes saves it: transformers and this crate load them packed.
    Nf4,
}

/// Writes a model without adapters into the folder `dir`; `config` is that of its checkpoint. Packed matrices are decoded.
///
/// # Errors
/// As [`save_checkpoint`], and where a matrix cannot be stored as `matrices` asks.
pub fn save(
    dir: &Path,
    model: &Decoder,
    config: &Value,
    matrices: Matrices,
    options: &SaveOptions<'_>,
) -> Result<(), WeightsError> {
    let mut config = config.clone();
    if !model.is_tied() {
        config["tie_word_embeddings"] = false.into();
    }
    let mut tensors = Vec::new();
    for parameter in model.parameters().iter() {
        let (name, shape) = (&parameter.name, &parameter.shape);
        match (matrices, is_matrix(parameter), shape.as_slice()) {
            (Matrices::Nf4, true, _) if name.contains(".experts.") => {
                return Err(WeightsError::Values(format!(
                    "{name} is one of several experts, which transformers keeps in one tensor and bitsandbytes does not \
                     quantise; save it dense"
                )));
            }
            (Matrices::Nf4, true, &[rows, columns]) => {
                let values = || parameter.to_host().into_owned();
                tensors.extend(nf4_tensors(name, [rows, columns], options.dtype, values));
            }
            _ => tensors.push(TensorToSave::deferred(name, shape, || Ok(parameter.to_host()))),
        }
    }
    let quantization = quantization_config(options.dtype);
    let quantization_config = (matrices == Matrices::Nf4).then_some(&quantization);
    save_checkpoint(dir, &config, tensors, &SaveOptions { quantization_config, ..*options })
}

/// Whether it is the weight of a linear layer inside the model.
fn is_matrix(parameter: &Parameter) -> bool {
    parameter.shape.len() == 2 && parameter.pieces().iter().all(|piece| piece.place.unit().is_some())
}
