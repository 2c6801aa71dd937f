//! `report_to`: which trackers a run is told to, and the options of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, ConfigError};

/// A tool that shows runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tracker {
    /// Event files that TensorBoard reads.
    Tensorboard,
    /// A directory that `wandb sync` sends to Weights & Biases.
    Wandb,
    /// A tracking server of MLflow, or the folder that it keeps runs in.
    Mlflow,
    /// Files that Trackio's dashboard takes.
    Trackio,
}

/// Some trackers: a list, a single name, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct ReportTo(Vec<Tracker>);

impl ReportTo {
    /// The trackers, each once.
    #[must_use]
    pub fn trackers(&self) -> &[Tracker] {
        &self.0
    }
}

impl TryFrom<Value> for ReportTo {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let names = match value {
            Value::Array(names) => names,
            Value::Bool(false) | Value::Null => Vec::new(),
            name if name == "none" => Vec::new(),
            name => vec![name],
        };
        let mut trackers = Vec::new();
        for name in names {
            let tracker = serde_json::from_value(name)
                .map_err(|_| "it must be tensorboard, wandb, mlflow, trackio, a list of them, or none")?;
            if !trackers.contains(&tracker) {
                trackers.push(tracker);
            }
        }
        Ok(Self(trackers))
    }
}

impl From<ReportTo> for Value {
    fn from(report_to: ReportTo) -> Self {
        let name = |tracker: Tracker| serde_json::to_value(tracker).unwrap_or_default();
        report_to.0.into_iter().map(name).collect()
    }
}

/// What is wrong with the address of MLflow's runs, if anything is.
pub(crate) fn tracking_uri_problem(uri: &str) -> Option<&'static str> {
    let (scheme, rest) = match uri.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        // A folder, also one with a drive before it.
        None => return uri.is_empty().then_some("give the address of a tracking server, or a folder"),
    };
    match scheme {
        "file" => None,
        "http" | "https" if rest.split('/').next().is_some_and(|host| host.contains('@')) => Some(
            "a password does not belong in an address, which is copied into the run's directory; set \
             MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ),
        "http" | "https" => None,
        _ => Some(
            "give the address of a tracking server (http://…), or a folder; a database is reached through \
             `mlflow server --backend-store-uri`",
        ),
    }
}

impl Config {
    pub(super) fn validate_trackers(&self) -> Result<(), ConfigError> {
        let told = |tracker| self.report_to.trackers().contains(&tracker);
        for (key, value, tracker, name) in [
            ("wandb_project", &self.wandb_project, Tracker::Wandb, "wandb"),
            ("wandb_entity", &self.wandb_entity, Tracker::Wandb, "wandb"),
            ("wandb_name", &self.wandb_name, Tracker::Wandb, "wandb"),
            ("mlflow_tracking_uri", &self.mlflow_tracking_uri, Tracker::Mlflow, "mlflow"),
            ("mlflow_experiment_name", &self.mlflow_experiment_name, Tracker::Mlflow, "mlflow"),
            ("trackio_project_name", &self.trackio_project_name, Tracker::Trackio, "trackio"),
        ] {
            if value.is_some() && !told(tracker) {
                return Err(ConfigError::Inconsistent(format!(
                    "`{key}` needs `report_to: {name}`; set it, or remove the key"
                )));
            }
        }
        let by_name = [Tracker::Wandb, Tracker::Mlflow, Tracker::Trackio];
        if self.run_name.is_some() && !by_name.into_iter().any(told) {
            let problem =
                "`run_name` is what trackers show a run as; set `report_to: wandb`, mlflow or trackio, or remove it";
            return Err(ConfigError::Inconsistent(problem.to_owned()));
        }
        match self.mlflow_tracking_uri.as_deref().and_then(tracking_uri_problem) {
            // Not the value, which may hold a password.
            Some(problem) => Err(ConfigError::Inconsistent(format!("`mlflow_tracking_uri` cannot be used: {problem}"))),
            None => Ok(()),
        }
    }
}
