//! One run of a comparison before it is made.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::config::Config;

/// A run of a comparison.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// The name of its directory.
    pub name: String,
    /// Its config.
    pub config: Config,
    /// A checkpoint of another run whose steps so far are its own, too.
    pub from: Option<PathBuf>,
}

impl PlannedRun {
    /// The first option on which results depend that `made`, the config of a run that is there, has otherwise: its key, its
    /// value there, and its value here.
    pub(super) fn difference(&self, made: &Config) -> Option<(String, String, String)> {
        difference("", &comparable(made), &comparable(&self.config))
    }
}

/// The options of a config on which its results depend.
fn comparable(config: &Config) -> Value {
    let plain = Config::default();
    // Which checkpoint is the best depends on which there are.
    let chooses = config.load_best_model_at_end;
    let config = Config {
        output_dir: plain.output_dir,
        resume_from_checkpoint: None,
        threads: plain.threads,
        logging_steps: plain.logging_steps,
        save_strategy: config.save_strategy.filter(|_| chooses),
        save_steps: config.save_steps.clone().filter(|_| chooses),
        save_total_limit: None,
        save_only_model: false,
        metric_for_best_model: config.metric_for_best_model.filter(|_| chooses),
        greater_is_better: config.greater_is_better.filter(|_| chooses),
        report_to: plain.report_to,
        run_name: None,
        wandb_project: None,
        wandb_entity: None,
        wandb_name: None,
        mlflow_tracking_uri: None,
        mlflow_experiment_name: None,
        trackio_project_name: None,
        ..config.clone()
    };
    serde_json::to_value(config).unwrap_or_default()
}

/// The first key at which two options differ, with both values.
fn difference(key: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            let within = |inner: &String| if key.is_empty() { inner.clone() } else { format!("{key}.{inner}") };
            keys.into_iter().find_map(|inner| difference(&within(inner), &a[inner], &b[inner]))
        }
        _ if a == b => None,
        _ => Some((key.to_owned(), a.to_string(), b.to_string())),
    }
}
