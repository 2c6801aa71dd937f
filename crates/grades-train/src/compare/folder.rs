//! The folder of a comparison: which of its runs are there, have to go on, or have to begin.

use std::fs;
use std::path::{Path, PathBuf};

use grades_report::record::{SUMMARY, Summary};
use serde_json::Value;

use super::error::CompareError;
use super::finished::Finished;
use super::job::{Job, ScoredModel, Worker};
use super::planned_run::PlannedRun;
use super::questions::Questions;
use crate::config::Config;
use crate::train::latest_checkpoint;

/// The folder of a comparison: a directory a run, and `configs/` with the config of each.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It has ended.
    Finished(PathBuf),
    /// It ended before its time, and left a checkpoint.
    Interrupted { run: PathBuf, checkpoint: PathBuf },
    /// It is still to be made, there.
    Absent(PathBuf),
}

impl Folder {
    /// Opens the folder of a comparison, or makes a new one.
    ///
    /// # Errors
    /// If it holds anything else, or cannot be made.
    pub fn open(path: &Path) -> Result<Self, CompareError> {
        let configs = path.join("configs");
        let occupied = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if path.is_file() || (occupied && !configs.is_dir()) {
            return Err(CompareError::Occupied { path: path.to_owned() });
        }
        fs::create_dir_all(&configs).map_err(CompareError::io(&configs))?;
        Ok(Self(path.to_owned()))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn config(&self, name: &str) -> PathBuf {
        self.0.join("configs").join(format!("{name}.yaml"))
    }

    /// Fails if the folder holds a run of this name with other options.
    ///
    /// # Errors
    /// That one, or its config cannot be read.
    pub fn check(&self, planned: &PlannedRun) -> Result<(), CompareError> {
        let path = self.config(&planned.name);
        let run = self.0.join(&planned.name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Without a config in `configs/` a directory is not one of ours.
            Err(_) if run.exists() => return Err(CompareError::Occupied { path: run }),
            Err(_) => return Ok(()),
        };
        let damaged = |problem: String| CompareError::Damaged { path: path.clone(), problem };
        let made = Config::parse(&text, &[]).map_err(|error| damaged(error.to_string()))?;
        match planned.difference(&made) {
            Some((key, was, now)) => Err(CompareError::OtherConfig { path: run, key, was, now }),
            None => Ok(()),
        }
    }

    /// The directory of a run that has ended.
    #[must_use]
    pub fn finished(&self, planned: &PlannedRun) -> Option<PathBuf> {
        match self.state(planned) {
            State::Finished(run) => Some(run),
            _ => None,
        }
    }

    /// A run that was cut short without a checkpoint keeps its directory; the next attempt has a number.
    fn state(&self, PlannedRun { name, .. }: &PlannedRun) -> State {
        let mut interrupted = None;
        for attempt in 1.. {
            let run = if attempt == 1 { self.0.join(name) } else { self.0.join(format!("{name}.{attempt}")) };
            if run.join(SUMMARY).is_file() {
                return State::Finished(run);
            }
            if !fs::read_dir(&run).is_ok_and(|mut entries| entries.next().is_some()) {
                return interrupted.unwrap_or(State::Absent(run));
            }
            if let Some(checkpoint) = latest_checkpoint(&run, usize::MAX) {
                interrupted = Some(State::Interrupted { run, checkpoint });
            }
        }
        State::Absent(self.0.join(name))
    }

    /// Trains a run if it is not there yet, scores it on what it was not scored on yet, and reads both.
    ///
    /// # Errors
    /// If the run or the evaluation fails, or what is there cannot be read.
    pub fn finish(
        &self,
        planned: &PlannedRun,
        questions: &Questions,
        work: &mut Worker<'_>,
    ) -> Result<Finished, CompareError> {
        self.check(planned)?;
        let run = match self.state(planned) {
            State::Finished(run) => run,
            State::Interrupted { run, checkpoint } => self.train(planned, run, Some(checkpoint), work)?,
            State::Absent(run) => self.train(planned, run, planned.from.clone(), work)?,
        };
        let path = run.join(SUMMARY);
        let text = fs::read(&path).map_err(CompareError::io(&path))?;
        let summary = complete(&text).map_err(|problem| CompareError::Damaged { path, problem })?;
        let Config { precision, load_in_4bit, image_backend, .. } = planned.config;
        let scored = match planned.config.model.checkpoint().map(PathBuf::from) {
            Some(model) if planned.config.adapter.is_some() => {
                ScoredModel { model, adapter: Some(run.join("adapter")), load_in_4bit, image_backend, precision }
            }
            _ => ScoredModel { model: run.join("model"), adapter: None, load_in_4bit: false, image_backend, precision },
        };
        let answers = questions.answers(&planned.name, &scored, &run.join("eval"), work)?;
        Ok(Finished { run, summary, answers })
    }

    /// Makes a run in the directory `run`, and returns it.
    fn train(
        &self,
        PlannedRun { name, config, .. }: &PlannedRun,
        run: PathBuf,
        resume_from: Option<PathBuf>,
        work: &mut Worker<'_>,
    ) -> Result<PathBuf, CompareError> {
        let failed = |message: String| CompareError::Failed { name: name.clone(), message };
        let text = config.to_yaml().map_err(|source| CompareError::Config { name: name.clone(), source })?;
        let config = self.config(name);
        grades_fs::write(&config, text)?;
        let job = Job::Train { name: name.clone(), config, output_dir: run.clone(), resume_from };
        work(&job).map_err(failed)?;
        let summary = run.join(SUMMARY);
        if summary.is_file() {
            return Ok(run);
        }
        Err(failed(format!("the run ended, but {} is not there", summary.display())))
    }
}

/// A summary that says all that a comparison counts: a report does without, here it would count as 0.
fn complete(text: &[u8]) -> Result<Summary, String> {
    const COUNTED: [&str; 7] =
        ["steps", "planned_steps", "seconds", "validation_seconds", "monitor_seconds", "frozen_units", "flops"];
    let summary: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if let Some(key) = COUNTED.into_iter().find(|key| summary.get(key).is_none_or(Value::is_null)) {
        return Err(format!("it has no `{key}`"));
    }
    serde_json::from_value(summary).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn a_summary_without_what_is_counted_is_damaged() {
        let whole = serde_json::json!({
            "steps": 1, "planned_steps": 2, "seconds": 3.0, "validation_seconds": 0.0, "monitor_seconds": 0.0,
            "frozen_units": 4, "flops": { "forward": 1, "input_gradient": 2, "weight_gradient": 3 },
        });
        assert_eq!(complete(whole.to_string().as_bytes()).unwrap().frozen_units, 4);
        for key in whole.as_object().unwrap().keys() {
            let mut partial = whole.clone();
            partial.as_object_mut().unwrap().remove(key);
            assert_eq!(complete(partial.to_string().as_bytes()).unwrap_err(), format!("it has no `{key}`"));
        }
    }
}
