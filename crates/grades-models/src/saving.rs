//! A whole model in the layout that its checkpoint has.

use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::model::{Decoder, Weight};
use crate::weights::{SaveOptions, TensorToSave, WeightsError, nf4_tensors, quantization_config, save_checkpoint};

/// Writes a model into the folder `dir`, which must not hold one, with the config that it was loaded by. A head that has parted
/// from the embedding is a matrix of its own there; packed matrices are decoded, and adapters folded in.
///
/// # Errors
/// If something is in the way, or the disk refuses.
pub fn save(dir: &Path, model: &Decoder, config: &Value, options: &SaveOptions<'_>) -> Result<(), Error> {
    let tensors = model.weights().into_iter().map(dense).collect();
    write(dir, model, config, tensors, options)
}

/// The same with the matrices of the language model's layers in NF4 with double quantisation, as bitsandbytes saves them:
/// transformers and this crate load them packed.
///
/// # Errors
/// As [`save`], and if a matrix is one of several experts or holds what is no finite number.
pub fn save_in_nf4(dir: &Path, model: &Decoder, config: &Value, options: &SaveOptions<'_>) -> Result<(), Error> {
    let mut tensors = Vec::new();
    for weight in model.weights() {
        let name = weight.name();
        match *weight.shape() {
            [rows, columns] if weight.may_be_packed() => {
                if name.contains(".experts.") {
                    return Err(Error::Weights(WeightsError::Values(format!(
                        "{name} is one of several experts, which transformers keeps in one tensor and bitsandbytes does not \
                         quantise; save it dense"
                    ))));
                }
                let values = move || weight.values().into_owned();
                tensors.extend(nf4_tensors(name, [rows, columns], options.dtype, values));
            }
            _ => tensors.push(dense(weight)),
        }
    }
    let quantization = quantization_config(options.dtype);
    write(dir, model, config, tensors, &SaveOptions { quantization_config: Some(&quantization), ..*options })
}

fn write(
    dir: &Path,
    model: &Decoder,
    config: &Value,
    mut tensors: Vec<TensorToSave<'_>>,
    options: &SaveOptions<'_>,
) -> Result<(), Error> {
    let names = model.names();
    let mut config = config.clone();
    if !model.is_tied() {
        config[names.tied] = false.into();
        if let Some(Value::Object(part)) = config.get_mut("text_config") {
            part.insert(names.tied.to_owned(), false.into());
        }
    }
    // What is computed from the config, but its own loader asks for.
    tensors.extend(names.frequencies.zip(model.rotary_frequencies()).map(|(name, values)| {
        let shape = [values.len()];
        TensorToSave::new(name, &shape, values)
    }));
    Ok(save_checkpoint(dir, &config, tensors, options)?)
}

fn dense(weight: Weight<'_>) -> TensorToSave<'_> {
    TensorToSave::deferred(weight.name(), weight.shape(), move || Ok(weight.values()))
}
