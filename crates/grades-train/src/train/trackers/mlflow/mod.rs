//! MLflow: a tracking server (`server.rs`), or the folder that MLflow keeps runs in by itself (`store.rs`).

mod server;
mod store;

use serde_json::Value;

use super::{Opened, Tracks, set};
use crate::train::TrainError;
use server::Server;
use store::FileStore;

/// What a run is known by in either: the tag that holds its id.
const TAG: &str = "grades.run_id";

/// Longest value of a parameter that MLflow takes.
const LONGEST: usize = 6000;

/// Opens what the config, or else `MLFLOW_TRACKING_URI`, names; `mlruns` here where nothing is named.
pub(super) fn open(opened: &Opened<'_>) -> Result<Box<dyn Tracks>, TrainError> {
    let uri = opened.config.mlflow_tracking_uri.clone().or_else(|| set("MLFLOW_TRACKING_URI"));
    let uri = uri.unwrap_or_else(|| "mlruns".to_owned());
    // Checked of the config already, but not of the environment.
    if let Some(problem) = crate::config::tracking_uri_problem(&uri) {
        return Err(TrainError::Other(format!("MLFLOW_TRACKING_URI: {problem}")));
    }
    let experiment = opened.config.mlflow_experiment_name.clone().or_else(|| set("MLFLOW_EXPERIMENT_NAME"));
    let experiment = experiment.unwrap_or_else(|| "Default".to_owned());
    if uri.starts_with("http://") || uri.starts_with("https://") {
        return Ok(Box::new(Server::open(opened, &uri, &experiment)));
    }
    let path = uri.strip_prefix("file://").or(uri.strip_prefix("file:")).unwrap_or(&uri);
    FileStore::open(opened, path.as_ref(), &experiment).map(|store| Box::new(store) as Box<dyn Tracks>)
}

/// The options of a run as MLflow's parameters: texts with the path to each.
fn parameters(options: &Value) -> Vec<(String, String)> {
    fn walk(path: &str, value: &Value, all: &mut Vec<(String, String)>) {
        let within = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            Value::Object(object) => object.iter().for_each(|(key, value)| walk(&within(key), value, all)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, value)| walk(&within(&index.to_string()), value, all))
            }
            Value::Null => {}
            Value::String(text) => all.push((path.to_owned(), text.clone())),
            other => all.push((path.to_owned(), other.to_string())),
        }
    }
    let mut all = Vec::new();
    walk("", options, &mut all);
    all.retain(|(_, value)| value.len() <= LONGEST);
    all
}

/// A metric's name without what MLflow refuses in one.
fn named(name: &str) -> String {
    name.chars()
        .map(|letter| if letter.is_alphanumeric() || "_-. :/".contains(letter) { letter } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parameters_by_their_paths() {
        let options = serde_json::json!({ "a": 1.5, "b": { "c": [{ "d": "x" }, null] }, "e": true });
        let told = parameters(&options);
        let told: Vec<(&str, &str)> = told.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(told, [("a", "1.5"), ("b.c.0.d", "x"), ("e", "true")]);
        assert_eq!(named("signals/language.0.q*"), "signals/language.0.q_");
    }
}
