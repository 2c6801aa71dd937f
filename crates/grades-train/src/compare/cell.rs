//! One run of a comparison: whether it is there, has to go on, or has to begin; and the folder that holds them all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use grades_report::record::Summary;
use serde_json::Value;

use super::questions::{Questions, Scored};
use super::{CompareError, Finished};
use crate::config::Config;

/// A run of a comparison.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The name of its directory.
    pub name: String,
    /// Its config.
    pub config: Config,
    /// A checkpoint of another run whose steps so far are its own, too.
    pub from: Option<PathBuf>,
}

/// A call of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it does, for the log.
    pub title: String,
    /// The arguments after `grades`.
    pub arguments: Vec<String>,
}

/// Makes a call and waits for it; the error is one sentence.
pub type Caller<'a> = dyn FnMut(&Call) -> Result<(), String> + 'a;

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
    pub fn check(&self, cell: &Cell) -> Result<(), CompareError> {
        let path = self.config(&cell.name);
        let run = self.0.join(&cell.name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Without a config in `configs/` a directory is not one of ours.
            Err(_) if run.exists() => return Err(CompareError::Occupied { path: run }),
            Err(_) => return Ok(()),
        };
        let damaged = |problem: String| CompareError::Damaged { path: path.clone(), problem };
        let saved = Config::parse(&text, &[]).map_err(|error| damaged(error.to_string()))?;
        match difference("", &comparable(&saved), &comparable(&cell.config)) {
            Some((key, was, now)) => Err(CompareError::OtherConfig { path: run, key, was, now }),
            None => Ok(()),
        }
    }

    /// The directory of a run that has ended.
    #[must_use]
    pub fn finished(&self, cell: &Cell) -> Option<PathBuf> {
        match self.state(cell) {
            State::Finished(run) => Some(run),
            _ => None,
        }
    }

    /// A run that was cut short without a checkpoint keeps its directory; the next attempt has a number.
    fn state(&self, cell: &Cell) -> State {
        let mut interrupted = None;
        for attempt in 1.. {
            let name = if attempt == 1 { cell.name.clone() } else { format!("{}.{attempt}", cell.name) };
            let run = self.0.join(name);
            if run.join("summary.json").is_file() {
                return State::Finished(run);
            }
            if !fs::read_dir(&run).is_ok_and(|mut entries| entries.next().is_some()) {
                return interrupted.unwrap_or(State::Absent(run));
            }
            if let Some(checkpoint) = newest_checkpoint(&run, usize::MAX)
                // A model without a summary: it was cut short while it was saved, and would not be gone on with.
                && !run.join("model").exists()
            {
                interrupted = Some(State::Interrupted { run, checkpoint });
            }
        }
        State::Absent(self.0.join(&cell.name))
    }

    /// Trains a run if it is not there yet, scores it on what it was not scored on yet, and reads both.
    ///
    /// # Errors
    /// If the run or the evaluation fails, or what is there cannot be read.
    pub fn finish(&self, cell: &Cell, questions: &Questions, call: &mut Caller<'_>) -> Result<Finished, CompareError> {
        self.check(cell)?;
        let (run, checkpoint) = match self.state(cell) {
            State::Finished(run) => (run, None),
            State::Interrupted { run, checkpoint } => (run, Some(Some(checkpoint))),
            State::Absent(run) => (run, Some(cell.from.clone())),
        };
        if let Some(checkpoint) = checkpoint {
            self.train(cell, &run, checkpoint.as_deref(), call)?;
        }
        let path = run.join("summary.json");
        let text = fs::read(&path).map_err(CompareError::io(&path))?;
        let summary = complete(&text).map_err(|problem| CompareError::Damaged { path, problem })?;
        let base = cell.config.model.checkpoint().map(PathBuf::from);
        let adapter = run.join("adapter");
        let Config { precision, load_in_4bit, .. } = cell.config;
        let scored = match base {
            Some(model) if cell.config.adapter.is_some() => {
                Scored { model, adapter: Some(adapter), load_in_4bit, precision }
            }
            _ => Scored { model: run.join("model"), adapter: None, load_in_4bit: false, precision },
        };
        let answers = questions.answers(&cell.name, &scored, &run.join("eval"), call)?;
        Ok(Finished { run, summary, answers })
    }

    fn train(
        &self,
        cell: &Cell,
        run: &Path,
        checkpoint: Option<&Path>,
        call: &mut Caller<'_>,
    ) -> Result<(), CompareError> {
        let failed = |message: String| CompareError::Failed { name: cell.name.clone(), message };
        let config = self.config(&cell.name);
        let text = cell.config.to_yaml().map_err(|source| CompareError::Config { name: cell.name.clone(), source })?;
        grades_fs::write(&config, text)?;
        let mut arguments = vec!["train".to_owned(), config.display().to_string(), option("output_dir", run)];
        arguments.extend(checkpoint.map(|checkpoint| option("resume_from_checkpoint", checkpoint)));
        let title = match checkpoint {
            Some(checkpoint) => format!("{}: training from {}", cell.name, checkpoint.display()),
            None => format!("{}: training", cell.name),
        };
        call(&Call { title, arguments }).map_err(failed)?;
        if run.join("summary.json").is_file() {
            return Ok(());
        }
        Err(failed(format!("the run ended, but {} is not there", run.join("summary.json").display())))
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

/// `key=path`, quoted as YAML.
fn option(key: &str, path: &Path) -> String {
    format!("{key}={}", Value::from(path.to_string_lossy()))
}

/// The checkpoint of a run with the largest step up to `most`.
pub(crate) fn newest_checkpoint(run: &Path, most: usize) -> Option<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).ok()?.flatten();
    let step = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("step-")?.parse::<usize>().ok();
    let whole = |path: &PathBuf| path.join("state.json").is_file();
    let steps = entries.map(|entry| entry.path()).filter(whole).filter_map(|path| Some((step(&path)?, path)));
    steps.filter(|(step, _)| *step <= most).max().map(|(_, path)| path)
}

/// The options of a config on which its results depend.
fn comparable(config: &Config) -> Value {
    let plain = Config::default();
    let config = Config {
        output_dir: plain.output_dir,
        resume_from_checkpoint: None,
        threads: plain.threads,
        logging_steps: plain.logging_steps,
        save_steps: None,
        report_to: plain.report_to,
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
