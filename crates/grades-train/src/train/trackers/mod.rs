//! What other tools show of a run, beside the run's own files: `report_to`. A tracker is a file here.

mod mlflow;
mod protobuf;
mod tensorboard;
mod trackio;
mod waits;
mod wandb;

use std::env;
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::time::Duration;

use grades_models::calendar;
use grades_report::record::TaskScores;
use serde::Serialize;
use serde_json::Value;

use super::TrainError;
use crate::config::{Config, Tracker, without_nulls};
use crate::random;

/// The file of a run's directory that holds what the run is called in other tools, so that one that goes on does so there, too.
const IDS: &str = "trackers.json";

/// A tool that is told a run.
trait Tracks: Debug {
    /// Takes the values of a step.
    fn step(&mut self, values: &Values) -> Result<(), TrainError>;

    /// Has everything written that is a file of the run's directory, or fails; tools elsewhere stop no run.
    fn settle(&mut self) -> Result<(), TrainError>;

    /// Learns that the run has ended, and not been interrupted.
    fn end(&mut self) -> Result<(), TrainError> {
        self.settle()
    }
}

/// The values of a step.
#[derive(Clone, Debug)]
struct Values {
    step: u64,
    /// Of the run.
    seconds: f64,
    /// Since 1970 began.
    time: Duration,
    values: Vec<(String, f64)>,
}

/// A run as trackers learn of it.
#[derive(Clone, Debug)]
struct Opened<'a> {
    /// Its directory.
    run: &'a Path,
    name: String,
    /// 32 hexadecimal digits that no other run has.
    id: String,
    config: &'a Config,
    /// The options that have a value.
    options: Value,
    /// The step after which it goes on.
    resumed: Option<usize>,
}

impl<'a> Opened<'a> {
    fn of(run: &'a Path, config: &'a Config, resumed: Option<usize>) -> Result<Self, TrainError> {
        let folder = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let options = serde_json::to_value(config).map_err(|error| TrainError::Other(error.to_string()))?;
        Ok(Self {
            run,
            name: config.run_name.clone().unwrap_or(folder),
            id: id_of(run)?,
            config,
            options: without_nulls(options),
            resumed,
        })
    }

    /// The project of a run in a tool: as the config or a variable of the environment says.
    fn project(&self, given: Option<&str>, variable: &str) -> String {
        given.map(str::to_owned).or_else(|| set(variable)).unwrap_or_else(|| "grades".to_owned())
    }
}

/// A variable of the environment; an empty one is as none.
fn set(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// The id that a run's directory holds, or a new one that it holds from now on.
fn id_of(run: &Path) -> Result<String, TrainError> {
    let path = run.join(IDS);
    let known = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let known = known.and_then(|known| known["run_id"].as_str().map(str::to_owned));
    if let Some(id) = known.filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Ok(id);
    }
    let id = random::id();
    grades_fs::write(&path, format!("{}\n", serde_json::json!({ "run_id": id })))?;
    Ok(id)
}

/// The trackers of a run.
#[derive(Debug, Default)]
pub(super) struct Trackers {
    open: Vec<Box<dyn Tracks>>,
    /// Signals of the step whose metrics are still to come.
    signals: Vec<(String, f64)>,
}

impl Trackers {
    /// Opens those of a config; what a resumed run had told them after step `resumed` is void.
    pub(super) fn open(run: &Path, config: &Config, resumed: Option<usize>) -> Result<Self, TrainError> {
        let trackers = config.report_to.trackers();
        if trackers.is_empty() {
            return Ok(Self::default());
        }
        let opened = Opened::of(run, config, resumed)?;
        let open = trackers.iter().map(|tracker| -> Result<Box<dyn Tracks>, TrainError> {
            Ok(match tracker {
                Tracker::Tensorboard => Box::new(tensorboard::EventFile::create(&opened)?),
                Tracker::Wandb => Box::new(wandb::OfflineRun::open(&opened)?),
                Tracker::Mlflow => mlflow::open(&opened)?,
                Tracker::Trackio => Box::new(trackio::Inbox::open(&opened)),
            })
        });
        Ok(Self { open: open.collect::<Result<_, _>>()?, signals: Vec::new() })
    }

    /// Takes a line of `signals.jsonl`, to be written with the metrics of its step.
    pub(super) fn signals(&mut self, line: &impl Serialize) {
        if !self.open.is_empty()
            && let Ok(line) = serde_json::to_value(line)
        {
            scalars("signals", &line["signals"], &mut self.signals);
        }
    }

    /// Writes a line of `metrics.jsonl`.
    pub(super) fn metrics(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let line = serde_json::to_value(line).unwrap_or_default();
        let mut values = named(&line);
        values.append(&mut self.signals);
        self.tell(line["step"].as_u64().unwrap_or(0), line["seconds"].as_f64().unwrap_or(0.0), values)
    }

    /// Writes a validation loss that has no line in `metrics.jsonl`.
    pub(super) fn validation(&mut self, step: usize, seconds: f64, loss: f64) -> Result<(), TrainError> {
        let mut values = Vec::new();
        scalars("eval/loss", &loss.into(), &mut values);
        self.tell(step as u64, seconds, values)
    }

    /// Writes scores of benchmarks that have no line in `metrics.jsonl`.
    pub(super) fn scores(&mut self, step: usize, seconds: f64, scores: &TaskScores) -> Result<(), TrainError> {
        let mut values = Vec::new();
        scalars("eval", &serde_json::to_value(scores).unwrap_or_default(), &mut values);
        self.tell(step as u64, seconds, values)
    }

    /// Fails unless all that they were told is in their files.
    pub(super) fn settle(&mut self) -> Result<(), TrainError> {
        self.open.iter_mut().try_for_each(|tracker| tracker.settle())
    }

    /// Tells them that the run has ended.
    pub(super) fn end(&mut self) -> Result<(), TrainError> {
        self.open.iter_mut().try_for_each(|tracker| tracker.end())
    }

    fn tell(&mut self, step: u64, seconds: f64, values: Vec<(String, f64)>) -> Result<(), TrainError> {
        let values = Values { step, seconds, time: calendar::now(), values };
        self.open.iter_mut().try_for_each(|tracker| tracker.step(&values))
    }
}

/// The numbers of a line of `metrics.jsonl`, with the names that transformers' trackers give them where they have one.
fn named(line: &Value) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    for (key, value) in line.as_object().into_iter().flatten() {
        match key.as_str() {
            "step" => {}
            "val_loss" | "val_losses" => scalars("eval/loss", value, &mut values),
            "eval_tasks" => scalars("eval", value, &mut values),
            "gradient_norm" => scalars("train/grad_norm", value, &mut values),
            key => scalars(&format!("train/{key}"), value, &mut values),
        }
    }
    values
}

/// Every number of a value with the path to it. What is not finite is `null`, and left out.
fn scalars(path: &str, value: &Value, values: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => values.extend(number.as_f64().map(|number| (path.to_owned(), number))),
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| scalars(&format!("{path}/{key}"), value, values))
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_of_transformers() {
        let line = serde_json::json!({
            "step": 3, "loss": 2.5, "gradient_norm": null, "flops": { "forward": 7 }, "val_loss": 3.0,
            "val_losses": { "piqa": 3.5 }, "eval_tasks": { "boolq": { "acc": 0.5 } },
        });
        let expected = [
            ("train/loss", 2.5),
            ("train/flops/forward", 7.0),
            ("eval/loss", 3.0),
            ("eval/loss/piqa", 3.5),
            ("eval/boolq/acc", 0.5),
        ];
        assert_eq!(named(&line), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn signals_are_written_with_the_metrics_of_their_step() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let config = Config { report_to: serde_json::from_value("wandb".into()).unwrap(), ..Config::default() };
        let mut trackers = Trackers::open(run, &config, None).unwrap();
        trackers.signals(&serde_json::json!({ "step": 1, "signals": { "language.0.q": 0.5, "language.0.k": null } }));
        for step in 1..=3 {
            trackers.metrics(&serde_json::json!({ "step": step, "seconds": 0.5, "loss": 2.0 })).unwrap();
        }
        let path = wandb::tests::path(run);
        let read = || wandb::tests::history(&path);
        let lines = read();
        let (step, first) = &lines[0];
        assert_eq!((*step, &first["_step"], &first["train/loss"]), (1, &1.into(), &2.0.into()));
        assert!(first["_timestamp"].as_f64().unwrap() > 1.6e9 && first["_runtime"] == 0.5);
        assert_eq!(first["signals/language.0.q"], 0.5);
        assert!(!first.contains_key("signals/language.0.k") && !lines[1].1.contains_key("signals/language.0.q"));
        // A run that goes on after step 1 writes steps 2 and 3 again, where it was.
        let mut trackers = Trackers::open(run, &config, Some(1)).unwrap();
        trackers.metrics(&serde_json::json!({ "step": 2, "loss": 1.0 })).unwrap();
        assert_eq!(read().iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read()[1].1["train/loss"], 1.0);
        trackers.validation(2, 0.75, 3.5).unwrap();
        let (step, last) = &read()[2];
        assert_eq!((*step, &last["_runtime"], &last["eval/loss"]), (2, &0.75.into(), &3.5.into()));
        trackers.end().unwrap();
        assert_eq!(wandb::tests::path(run), path);
    }

    #[test]
    fn runs_have_ids_of_their_own_and_keep_them() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ids = folders.each_ref().map(|folder| id_of(folder.path()).unwrap());
        assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 32), "{ids:?}");
        assert_eq!(id_of(folders[0].path()).unwrap(), ids[0]);
    }
}
