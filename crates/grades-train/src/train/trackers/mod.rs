//! Files that other tools read, written beside the run's own: `report_to`.

mod tensorboard;
mod wandb;

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::TrainError;
use crate::config::Tracker;
use tensorboard::EventFile;
use wandb::History;

/// The trackers of a run.
#[derive(Debug, Default)]
pub(super) struct Trackers {
    events: Option<EventFile>,
    history: Option<History>,
    /// Signals of the step whose metrics are still to come.
    signals: Vec<(String, f64)>,
}

impl Trackers {
    /// Opens their files in the run's directory; what a resumed run had written after step `resumed` is void.
    pub(super) fn open(run: &Path, trackers: &[Tracker], resumed: Option<usize>) -> Result<Self, TrainError> {
        let events = trackers.contains(&Tracker::Tensorboard).then(|| EventFile::create(run, resumed)).transpose()?;
        let history = trackers.contains(&Tracker::Wandb).then(|| History::open(run, resumed)).transpose()?;
        Ok(Self { events, history, signals: Vec::new() })
    }

    fn is_empty(&self) -> bool {
        self.events.is_none() && self.history.is_none()
    }

    /// Takes a line of `signals.jsonl`, to be written with the metrics of its step.
    pub(super) fn signals(&mut self, line: &impl Serialize) {
        if !self.is_empty()
            && let Ok(line) = serde_json::to_value(line)
        {
            scalars("signals", &line["signals"], &mut self.signals);
        }
    }

    /// Writes a line of `metrics.jsonl`.
    pub(super) fn metrics(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        if self.is_empty() {
            return Ok(());
        }
        let line = serde_json::to_value(line).unwrap_or_default();
        let mut values = named(&line);
        values.append(&mut self.signals);
        self.write(line["step"].as_u64().unwrap_or(0), line["seconds"].as_f64().unwrap_or(0.0), &values)
    }

    /// Writes a validation loss that has no line in `metrics.jsonl`.
    pub(super) fn validation(&mut self, step: usize, seconds: f64, loss: f64) -> Result<(), TrainError> {
        let mut values = Vec::new();
        scalars("eval/loss", &loss.into(), &mut values);
        self.write(step as u64, seconds, &values)
    }

    /// Fails unless all that they were told is in their files.
    pub(super) fn settle(&mut self) -> Result<(), TrainError> {
        self.events.as_mut().map_or(Ok(()), EventFile::settle)?;
        self.history.as_mut().map_or(Ok(()), History::settle)
    }

    fn write(&mut self, step: u64, seconds: f64, values: &[(String, f64)]) -> Result<(), TrainError> {
        if let Some(events) = &mut self.events {
            events.write(step, values)?;
        }
        match &mut self.history {
            Some(history) => history.write(step, seconds, values),
            None => Ok(()),
        }
    }
}

/// The numbers of a line of `metrics.jsonl`, with the names that transformers' trackers give them where they have one.
fn named(line: &Value) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    for (key, value) in line.as_object().into_iter().flatten() {
        match key.as_str() {
            "step" => {}
            "val_loss" | "val_losses" => scalars("eval/loss", value, &mut values),
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
            "val_losses": { "piqa": 3.5 },
        });
        let expected = [("train/loss", 2.5), ("train/flops/forward", 7.0), ("eval/loss", 3.0), ("eval/loss/piqa", 3.5)];
        assert_eq!(named(&line), expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn signals_are_written_with_the_metrics_of_their_step() {
        let run = tempfile::tempdir().unwrap();
        let mut trackers = Trackers::open(run.path(), &[Tracker::Wandb], None).unwrap();
        trackers.signals(&serde_json::json!({ "step": 1, "signals": { "language.0.q": 0.5, "language.0.k": null } }));
        for step in 1..=3 {
            trackers.metrics(&serde_json::json!({ "step": step, "seconds": 0.5, "loss": 2.0 })).unwrap();
        }
        let read = || {
            let text = std::fs::read_to_string(run.path().join("wandb/wandb-history.jsonl")).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        let lines = read();
        assert_eq!(lines[0]["signals/language.0.q"], 0.5);
        assert_eq!((&lines[0]["_step"], &lines[0]["train/loss"]), (&1.into(), &2.0.into()));
        assert!(lines[0]["_timestamp"].as_f64().unwrap() > 1.6e9 && lines[0]["_runtime"] == 0.5);
        assert!(lines[0].get("signals/language.0.k").is_none() && lines[1].get("signals/language.0.q").is_none());
        // A run that goes on after step 1 writes steps 2 and 3 again.
        let mut trackers = Trackers::open(run.path(), &[Tracker::Wandb], Some(1)).unwrap();
        trackers.metrics(&serde_json::json!({ "step": 2, "loss": 1.0 })).unwrap();
        assert_eq!(read().iter().map(|line| line["_step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read()[1]["train/loss"], 1.0);
        trackers.validation(2, 0.75, 3.5).unwrap();
        let last = &read()[2];
        assert_eq!((&last["_step"], &last["_runtime"], &last["eval/loss"]), (&2.into(), &0.75.into(), &3.5.into()));
    }
}
