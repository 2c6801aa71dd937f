//! `hub_model_id` and what belongs to it: where a run's model goes when it has ended.

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};
use crate::hub;

/// `hub_strategy`: when a run's model is uploaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HubStrategy {
    /// When the run has ended.
    #[default]
    End,
}

impl TryFrom<String> for HubStrategy {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        match name.as_str() {
            "end" => Ok(Self::End),
            "every_save" | "checkpoint" | "all_checkpoints" => Err(
                "only `end` is supported, as checkpoints hold the state of a run and are no models that others load; \
                 `grades upload` takes a checkpoint's folder, too",
            ),
            _ => Err("it must be end"),
        }
    }
}

impl From<HubStrategy> for String {
    fn from(_: HubStrategy) -> Self {
        "end".to_owned()
    }
}

impl Config {
    pub(super) fn validate_hub(&self) -> Result<(), ConfigError> {
        let problem = match &self.hub_model_id {
            Some(id) if !hub::is_name(id) => format!("`hub_model_id: {id}` is no name on the Hub; give owner/name"),
            Some(_) => return Ok(()),
            None if self.hub_private_repo || self.hub_revision.is_some() || self.hub_strategy.is_some() => {
                "`hub_private_repo`, `hub_revision` and `hub_strategy` say how a model is uploaded; set `hub_model_id`, or \
                 remove them"
                    .to_owned()
            }
            None => return Ok(()),
        };
        Err(ConfigError::Inconsistent(problem))
    }
}
