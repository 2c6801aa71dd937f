//! How a model sees pictures, by the files that describe it.

use std::fs;
use std::path::{Path, PathBuf};

use grades_models::tokenizer::Tokenizer;
use serde_json::Value;

use super::error::TrainError;
use crate::data::{DataError, Vision};
use crate::hub::Hub;

/// The files that say what a processor makes of pictures, the newer one last.
const PROCESSORS: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// Qwen2.5-VL's token of a picture, where the config does not name it.
const IMAGE_TOKEN: u64 = 151_655;

/// The tokenizer of the model of a config in `folder`. A nanoVLM names that of its language model, with tokens for pictures
/// behind it and a chat template of its own.
///
/// # Errors
/// If there is none, or it is damaged.
pub(crate) fn tokenizer(config: &Value, folder: &Path) -> Result<Tokenizer, TrainError> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let extra = config.get("vlm_extra_tokens").and_then(Value::as_object);
    let is_whole = folder.join("tokenizer.json").is_file();
    let named = text("lm_tokenizer").filter(|_| !is_whole && folder.is_dir());
    let tokenizer = match named {
        None => Tokenizer::from_checkpoint(folder)?,
        Some(name) => {
            let beside = folder.join(name);
            let base = if beside.is_dir() {
                beside
            } else {
                Hub::from_env().description(name.as_ref()).map_err(DataError::from)?
            };
            Tokenizer::from_checkpoint(base)?
        }
    };
    let extra: Vec<String> =
        extra.into_iter().flatten().filter_map(|(_, token)| token.as_str().map(str::to_owned)).collect();
    let tokenizer = tokenizer.with_special_tokens(&extra)?;
    Ok(match text("lm_chat_template").filter(|_| !is_whole) {
        Some(template) => tokenizer.with_chat_template(template.to_owned()),
        None => tokenizer,
    })
}

/// How the model of a config sees pictures; `None` of one that reads texts alone. `folder` holds its other files; `known` is what a
/// file beside the model says of its processor, in the place of the processor's own.
///
/// # Errors
/// If its files contradict what is known of it, or one that must be there is missing.
pub(crate) fn of_model(
    config: &Value,
    folder: &Path,
    tokenizer: &Tokenizer,
    known: Option<&Value>,
) -> Result<Option<Vision>, TrainError> {
    let named = |file: &Path, error: String| TrainError::Other(format!("{}: {error}", file.display()));
    let found = Vision::nanovlm(config).map_err(|error| named(&folder.join("config.json"), error.to_string()))?;
    if found.is_some() {
        return Ok(found);
    }
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let vision = match text("model_type") {
        Some("qwen2_5_vl") => {
            let (file, processor) = match known {
                Some(known) => (folder.to_owned(), known.clone()),
                None => processor(folder)?,
            };
            let id = config.get("image_token_id").and_then(Value::as_u64).unwrap_or(IMAGE_TOKEN);
            let token = u32::try_from(id).ok().and_then(|id| tokenizer.token(id)).ok_or_else(|| {
                TrainError::Other(format!(
                    "the tokenizer has no token {id}, which config.json says stands for pictures"
                ))
            })?;
            Vision::qwen(&processor, &token, None).map_err(|error| named(&file, error.to_string()))?
        }
        // nanoVLM's form with another tower.
        None if config.get("lm_hidden_dim").is_some() && config.get("vision_config").is_some() => {
            let (file, processor) = processor(folder)?;
            let number = |value: &Value| value.as_u64().map(|number| number as usize);
            let patch = number(&config["vision_config"]["patch_size"]).unwrap_or(14);
            let merge = number(&config["mp_pixel_shuffle_factor"]).unwrap_or(4);
            let token = |name: &str| config["vlm_extra_tokens"][name].as_str();
            let image = token("image_token").unwrap_or("<|image|>");
            Vision::squares(&processor, image, token("global_image_token"), patch * merge)
                .map_err(|error| named(&file, error.to_string()))?
        }
        _ => return Ok(None),
    };
    Ok(Some(vision))
}

/// The file of a model's processor, and what it says.
fn processor(folder: &Path) -> Result<(PathBuf, Value), TrainError> {
    let Some(file) = PROCESSORS.map(|name| folder.join(name)).into_iter().find(|file| file.is_file()) else {
        return Err(TrainError::Other(format!(
            "{}: there is no {} beside the model, which says what becomes of pictures; copy it from where the model came from",
            folder.display(),
            PROCESSORS[0]
        )));
    };
    let text = fs::read(&file).map_err(|source| TrainError::io(&file, source))?;
    match serde_json::from_slice(&text) {
        Ok(processor) => Ok((file, processor)),
        Err(error) => Err(TrainError::Other(format!("{}: it is not valid JSON ({error})", file.display()))),
    }
}

/// Writes what a saved model needs to see pictures, of a model whose processor has no file.
pub(super) fn write_processor(processor: &Value, to: &Path) -> Result<(), TrainError> {
    Ok(grades_fs::create(&to.join(PROCESSORS[0]), format!("{processor:#}\n"))?)
}

/// Copies what a saved model needs to see pictures as the one in `from` does into `to`.
pub(super) fn copy_processor(from: &Path, to: &Path) -> Result<(), TrainError> {
    for name in PROCESSORS.into_iter().filter(|name| from.join(name).is_file()) {
        let file = from.join(name);
        let text = fs::read(&file).map_err(|source| TrainError::io(&file, source))?;
        grades_fs::create(&to.join(name), text)?;
    }
    Ok(())
}
