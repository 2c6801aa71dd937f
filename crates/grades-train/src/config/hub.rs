//! `hub_model_id` and what belongs to it: where a run's model goes, and when.

use serde::{Deserialize, Serialize};

use super::save_strategy::SaveStrategy;
use super::{Config, ConfigError};
use crate::hub;

/// `hub_strategy`: when a run's model is uploaded, under the names of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HubStrategy {
    /// When the run has ended.
    #[default]
    End,
    /// With each checkpoint, too.
    EverySave,
    /// The same, and the last checkpoint beside the model.
    Checkpoint,
    /// The same, and all checkpoints beside the model.
    AllCheckpoints,
}

impl Config {
    pub(super) fn validate_hub(&self) -> Result<(), ConfigError> {
        let strategy = self.hub_strategy.unwrap_or_default();
        let problem = match &self.hub_model_id {
            Some(id) if !hub::is_name(id) => format!("`hub_model_id: {id}` is no name on the Hub; give owner/name"),
            Some(_) if strategy != HubStrategy::End && self.save_strategy() == SaveStrategy::No => {
                "`hub_strategy` uploads with each checkpoint, and none are written; set save_steps or save_strategy, or hub_strategy: end"
                    .to_owned()
            }
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
