//! A run's directory: what happened, one JSON object a line, so that reports need nothing else.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use grades::TraceStep;
use grades_report::record::{self, Event, Signals, Step};
use serde::Serialize;

use super::TrainError;
use super::trackers::Trackers;
use crate::config::Tracker;

/// The directory of one run: `config.yaml`, `environment.json`, `units.json`, `metrics.jsonl`, `signals.jsonl`,
/// `events.jsonl`, with `early_stopping.trace` also `trace.jsonl`, `checkpoints/`, `model/` and, at the end, `summary.json` and `report.html`.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: Lines,
    signals: Lines,
    events: Lines,
    /// From the first line on.
    trace: Option<Lines>,
    trackers: Trackers,
}

#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    fn create(path: PathBuf, append: bool) -> Result<Self, TrainError> {
        let mut options = File::options();
        if append {
            options.append(true).create(true)
        } else {
            options.write(true).create_new(true)
        };
        let file = options.open(&path).map_err(|source| TrainError::io(&path, source))?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        let mut text =
            serde_json::to_string(line).map_err(io::Error::from).map_err(|e| TrainError::io(&self.path, e))?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush());
        written.map_err(|source| TrainError::io(&self.path, source))
    }
}

impl RunDir {
    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// If there is already something in it (a run is never overwritten), or it cannot be made.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        Self::check_free(path)?;
        fs::create_dir_all(path).map_err(|source| TrainError::io(path, source))?;
        Self::open(path, false)
    }

    /// Whether [`create`](Self::create) could make a directory there: to be asked before long work.
    ///
    /// # Errors
    /// If there is already something in it.
    pub fn check_free(path: &Path) -> Result<(), TrainError> {
        let occupied = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if occupied || path.is_file() { Err(TrainError::RunExists { path: path.into() }) } else { Ok(()) }
    }

    /// Goes on after `checkpoint` (`…/step-000120`): in the interrupted run's own directory, whose logs are cut back to
    /// the checkpoint's step, or in a new one.
    ///
    /// # Errors
    /// If the run has ended already, `path` holds something else, or the logs cannot be changed.
    pub fn resume(path: &Path, checkpoint: &Path) -> Result<Self, TrainError> {
        let own = checkpoint.parent().and_then(Path::parent).and_then(|run| run.canonicalize().ok());
        if own.is_none() || own != path.canonicalize().ok() {
            return Self::create(path);
        }
        if path.join(record::SUMMARY).exists() || path.join("model").exists() {
            return Err(TrainError::RunExists { path: path.into() });
        }
        let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
        let step = name.strip_prefix("step-").and_then(|step| step.parse().ok()).unwrap_or(usize::MAX);
        for log in [record::METRICS, record::SIGNALS, record::EVENTS, record::TRACE] {
            let path = path.join(log);
            if log == record::TRACE && !path.exists() {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(|source| TrainError::io(&path, source))?;
            let before = |line: &&str| {
                let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
                line.and_then(|line| line.get("step")?.as_u64()).is_some_and(|of| of as usize <= step)
            };
            let kept: String = text.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
            grades_fs::write(&path, kept)?;
        }
        Self::open(path, true)
    }

    fn open(path: &Path, append: bool) -> Result<Self, TrainError> {
        let lines = |name: &str| Lines::create(path.join(name), append);
        let (metrics, signals, events) = (lines(record::METRICS)?, lines(record::SIGNALS)?, lines(record::EVENTS)?);
        Ok(Self { path: path.into(), metrics, signals, events, trace: None, trackers: Trackers::default() })
    }

    /// From now on writes the files of these trackers, too. A run that goes on after the step `resumed` replaces what they
    /// hold of later ones.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn report_to(&mut self, trackers: &[Tracker], resumed: Option<usize>) -> Result<(), TrainError> {
        self.trackers = Trackers::open(&self.path, trackers, resumed)?;
        Ok(())
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the final model goes.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Where the final adapter goes.
    #[must_use]
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// Appends a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn metric(&mut self, line: &Step) -> Result<(), TrainError> {
        self.metrics.write(line)?;
        self.trackers.metrics(line)
    }

    /// Tells the trackers the validation loss at the end, which `summary.json` holds.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn final_validation(&mut self, step: usize, seconds: f64, loss: f64) -> Result<(), TrainError> {
        self.trackers.validation(step, seconds, loss)
    }

    /// Appends a line to `signals.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn signal(&mut self, line: &Signals) -> Result<(), TrainError> {
        self.signals.write(line)?;
        self.trackers.signals(line);
        Ok(())
    }

    /// Appends a line to `trace.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn trace(&mut self, line: &TraceStep) -> Result<(), TrainError> {
        let trace = match &mut self.trace {
            Some(trace) => trace,
            place => place.insert(Lines::create(self.path.join(record::TRACE), true)?),
        };
        trace.write(line)
    }

    /// Appends a line to `events.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn event(&mut self, line: &Event) -> Result<(), TrainError> {
        self.events.write(line)
    }

    /// Writes a file of the directory in one piece: it is there whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<(), TrainError> {
        Ok(grades_fs::write(&self.path.join(name), contents)?)
    }
}
