//! How a model sees pictures, from the files that describe it.

use std::collections::BTreeMap;

use grades_images::{Backend, ConfigError, Layout, Limits, Processor, TilesOptions};
use serde_json::{Map, Value};

use super::nanovlm::TileTokens;
use super::{PictureText, Vision};

/// What is wrong with the description of a model that sees pictures. Whoever knows the file puts its name before it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VisionError {
    /// The processor's file.
    #[error(transparent)]
    Processor(#[from] ConfigError),
    /// A key of nanoVLM's config.
    #[error("its `{key}` is {value}, where {wanted} is expected")]
    Key {
        /// The key.
        key: String,
        /// What it is.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
}

impl Vision {
    /// How the nanoVLM that a `config.json` describes sees pictures; `None` if it describes none.
    ///
    /// # Errors
    /// A key has another value than it may.
    pub fn nanovlm(config: &Value) -> Result<Option<Self>, VisionError> {
        let Some(config) = config.as_object() else { return Ok(None) };
        if !(config.contains_key("vit_hidden_dim") && config.contains_key("lm_hidden_dim")) {
            return Ok(None);
        }
        let extra = match config.get("vlm_extra_tokens") {
            None | Some(Value::Null) => None,
            Some(Value::Object(names)) => Some(names),
            Some(other) => return Err(wrong("vlm_extra_tokens", other, "an object of names and tokens")),
        };
        let token = |name: &str| extra.and_then(|names| names.get(name)?.as_str()).map(str::to_owned);
        let tiles = token("r1c1").is_some();
        let side = whole(config, "vit_img_size", if tiles { 512 } else { 224 })?;
        let patch = whole(config, "vit_patch_size", 16)?;
        let shuffle = whole(config, "mp_pixel_shuffle_factor", if tiles { 4 } else { 2 })?;
        let tokens = whole(config, "mp_image_token_length", (side / patch / shuffle).pow(2))?;
        if tokens != (side / patch / shuffle).pow(2) {
            return Err(wrong("mp_image_token_length", &tokens.into(), "the number of shuffled patches of a tile"));
        }
        let (processor, text) = match token("image_token") {
            None => (Processor::nanovlm_fixed(side), PictureText::Before { tokens }),
            Some(token) if !tiles => (Processor::nanovlm_fixed(side), PictureText::Run { token, tokens }),
            Some(image) => {
                let global = token("global_image_token");
                let options = TilesOptions {
                    side,
                    max_side: whole(config, "max_img_size", 4 * side)?,
                    to_max_side: match config.get("resize_to_max_side_len") {
                        None | Some(Value::Null) => false,
                        Some(Value::Bool(flag)) => *flag,
                        Some(other) => return Err(wrong("resize_to_max_side_len", other, "true or false")),
                    },
                    global: global.is_some(),
                };
                let named = extra.into_iter().flatten();
                let place = |(name, token): (&String, &Value)| {
                    let (row, column) = name.strip_prefix('r')?.split_once('c')?;
                    Some(((row.parse().ok()?, column.parse().ok()?), token.as_str()?.to_owned()))
                };
                let places = named.filter_map(place).collect();
                (Processor::nanovlm(options), PictureText::Tiles(TileTokens { image, global, places, tokens }))
            }
        };
        Ok(Some(Self { processor, text, limits: Limits::default() }))
    }

    /// How a model of Qwen2-VL's kind sees pictures, by its processor's file (`preprocessor_config.json`, or
    /// `processor_config.json`) and the token of its config that stands for pictures.
    ///
    /// # Errors
    /// The file describes another processor, or has what would change the pixels and is not known.
    pub fn qwen(processor: &Value, token: &str, backend: Option<Backend>) -> Result<Self, VisionError> {
        let processor = Processor::from_config(processor, backend)?;
        Ok(Self { processor, text: PictureText::Pad { token: token.to_owned() }, limits: Limits::default() })
    }

    /// How a model sees pictures that a processor makes squares of, each `pixels · pixels` of which become a row for the token `image`: as
    /// nanoVLM does, with another tower. With a token for whole pictures they stand in a chat, as since August 2025, and else as in May 2025.
    ///
    /// # Errors
    /// As of [`qwen`](Self::qwen), and if pictures do not become whole rows.
    pub fn squares(processor: &Value, image: &str, global: Option<&str>, pixels: usize) -> Result<Self, VisionError> {
        let processor = Processor::from_config(processor, None)?;
        let side = match processor.layout(1 << 10, 1 << 10) {
            Ok(Layout::Whole { height, width }) if height == width => height,
            _ => 0,
        };
        if side == 0 || pixels == 0 || side % pixels != 0 {
            let (key, wanted) = ("crop_size".to_owned(), "a square of whole rows of patches");
            return Err(VisionError::Key { key, value: side.to_string(), wanted });
        }
        let (image, tokens) = (image.to_owned(), (side / pixels).pow(2));
        let text = match global.map(str::to_owned) {
            None => PictureText::Run { token: image, tokens },
            global => PictureText::Tiles(TileTokens { image, global, places: BTreeMap::new(), tokens }),
        };
        Ok(Self { processor, text, limits: Limits::default() })
    }
}

/// A side or a count in pixels, patches or tokens.
fn whole(config: &Map<String, Value>, key: &str, otherwise: usize) -> Result<usize, VisionError> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(otherwise),
        Some(value) => {
            let number = value.as_u64().filter(|n| (1..=1 << 14).contains(n));
            number.map(|n| n as usize).ok_or_else(|| wrong(key, value, "a whole number from 1 to 16384"))
        }
    }
}

fn wrong(key: &str, value: &Value, wanted: &'static str) -> VisionError {
    VisionError::Key { key: key.to_owned(), value: value.to_string(), wanted }
}
