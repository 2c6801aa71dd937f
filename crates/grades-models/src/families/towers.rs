//! The vision towers, by the `model_type` of their configs.

use super::{dinov2, siglip};
use crate::Error;
use crate::config::HfConfig;
use crate::fields::Fields;
use crate::model::Vision;
use crate::source::Builder;

/// Reads the config of a tower and loads it.
type Tower = fn(&Fields<'_>, &mut Builder<'_>) -> Result<Vision, Error>;

/// Every vision tower.
const TOWERS: &[(&str, Tower)] = &[("dinov2", dinov2::load), ("siglip_vision_model", siglip::load)];

/// The key of a tower's config in that of a checkpoint of several parts.
pub(crate) const PART: &str = "vision_config";

/// Their names, and of the checkpoints that hold one.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TOWERS.iter().map(|(name, _)| *name).chain(["siglip"])
}

/// The config of the tower in a checkpoint: its own, or a part of it.
pub(crate) fn config(config: &HfConfig) -> Result<HfConfig, Error> {
    match (config.value().get(PART), config.model_type()?.as_str()) {
        (Some(part), "siglip") => {
            let mut part = part.clone();
            // Old ones leave it out.
            part["model_type"] = "siglip_vision_model".into();
            HfConfig::new(part)
        }
        _ => Ok(config.clone()),
    }
}

/// The tower alone, without a projector.
pub(crate) fn load(config: &HfConfig, builder: &mut Builder<'_>) -> Result<Vision, Error> {
    let found = config.model_type()?;
    match TOWERS.iter().find(|(name, _)| *name == found) {
        Some((_, tower)) => config.read(|config| tower(config, builder)),
        None => Err(Error::Family { found, known: names().collect::<Vec<_>>().join(", ") }),
    }
}
