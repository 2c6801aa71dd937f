//! A run's directory: what happened, one JSON object a line, so that reports need nothing else. Where the disk is full, lines wait.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use grades::TraceStep;
use grades_fs::Lock;
use grades_report::record::{self, Event, Generated, Signals, Step, TaskScores};

use super::log_file::LogFile;
use super::trackers::Trackers;
use super::{TrainError, checkpoints, pushing};
use crate::config::Config;

/// The directory of one run: `config.yaml`, `environment.json`, `units.json`, `metrics.jsonl`, `signals.jsonl`,
/// `events.jsonl`, with `early_stopping.trace` also `trace.jsonl`, with `generate_samples` `generated.jsonl`, `checkpoints/`, `model/` and, at the end, `summary.json` and `report.html`.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: LogFile,
    signals: LogFile,
    events: LogFile,
    /// From the first line on.
    trace: Option<LogFile>,
    /// From the first line on.
    generated: Option<LogFile>,
    trackers: Trackers,
    /// Keeps other processes out.
    _lock: Lock,
}

/// The lock of a run's directory; after a moment, as a process that was told to end may still be at its last step.
fn alone(path: &Path) -> Result<Lock, TrainError> {
    const ATTEMPTS: usize = 20;
    for attempt in 1..=ATTEMPTS {
        match grades_fs::lock(path)? {
            Some(lock) => return Ok(lock),
            None if attempt < ATTEMPTS => thread::sleep(Duration::from_millis(100)),
            None => {}
        }
    }
    Err(TrainError::InUse { path: path.into() })
}

impl RunDir {
    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// If there is already something in it (a run is never overwritten), or it cannot be made.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        Self::check_free(path)?;
        fs::create_dir_all(path).map_err(|source| TrainError::io(path, source))?;
        let lock = alone(path)?;
        // Another process may have been faster.
        Self::check_free(path)?;
        Self::open(path, false, lock)
    }

    /// Whether [`create`](Self::create) could make a directory there: to be asked before long work.
    ///
    /// # Errors
    /// If there is already something in it.
    pub fn check_free(path: &Path) -> Result<(), TrainError> {
        let occupied = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if occupied || path.is_file() { Err(TrainError::RunExists { path: path.into() }) } else { Ok(()) }
    }

    /// Whether an interrupted run left what is in this directory.
    #[must_use]
    pub fn is_interrupted(path: &Path) -> bool {
        let begun = [record::CONFIG, record::METRICS].iter().any(|name| path.join(name).is_file());
        begun && !path.join(record::SUMMARY).exists()
    }

    /// Goes on in the directory of an interrupted run, whose logs are cut back to `step`; to nothing where it begins anew. Later
    /// checkpoints, and what it had saved at its end, are removed, as they come again.
    ///
    /// # Errors
    /// If the run has ended, another process is at it, or the directory cannot be changed.
    pub fn resume(path: &Path, step: Option<usize>) -> Result<Self, TrainError> {
        let lock = alone(path)?;
        if path.join(record::SUMMARY).exists() {
            return Err(TrainError::RunExists { path: path.into() });
        }
        grades_fs::remove_leftovers_in(path)?;
        grades_fs::remove_leftovers_in(&path.join("checkpoints"))?;
        // Before the logs are cut: one that stayed behind them would lack their lines when a run goes on from it.
        if let Some(step) = step {
            checkpoints::remove_after(path, step)?;
        }
        let unsent = path.join(pushing::FOLDER);
        if unsent.exists() {
            fs::remove_dir_all(&unsent).map_err(|source| TrainError::io(&unsent, source))?;
        }
        for kind in ["model", "adapter"] {
            for name in [kind.to_owned(), format!("{kind}-weights"), format!("{kind}-average")] {
                let folder = path.join(name);
                if folder.exists() {
                    fs::remove_dir_all(&folder).map_err(|source| TrainError::io(&folder, source))?;
                }
            }
        }
        for log in [record::METRICS, record::SIGNALS, record::EVENTS, record::TRACE, record::GENERATED] {
            let path = path.join(log);
            if [record::TRACE, record::GENERATED].contains(&log) && !path.exists() {
                continue;
            }
            let text = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                read => read.map_err(|source| TrainError::io(&path, source))?,
            };
            // The last line may be torn.
            let text = String::from_utf8_lossy(&text);
            let before = |line: &&str| {
                let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
                let of = line.and_then(|line| line.get("step")?.as_u64());
                of.zip(step).is_some_and(|(of, step)| of as usize <= step)
            };
            let kept: String = text.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
            grades_fs::write(&path, kept)?;
        }
        Self::open(path, true, lock)
    }

    fn open(path: &Path, append: bool, lock: Lock) -> Result<Self, TrainError> {
        let lines = |name: &str| {
            let path = path.join(name);
            if append { LogFile::open(&path) } else { LogFile::create(&path) }
        };
        let (metrics, signals, events) = (lines(record::METRICS)?, lines(record::SIGNALS)?, lines(record::EVENTS)?);
        Ok(Self {
            path: path.into(),
            metrics,
            signals,
            events,
            trace: None,
            generated: None,
            trackers: Trackers::default(),
            _lock: lock,
        })
    }

    /// From now on tells the trackers of `config`, too. A run that goes on after the step `resumed` replaces what they hold of later
    /// ones.
    ///
    /// # Errors
    /// If their files cannot be written.
    pub fn report_to(&mut self, config: &Config, resumed: Option<usize>) -> Result<(), TrainError> {
        self.trackers = Trackers::open(&self.path, config, resumed)?;
        Ok(())
    }

    /// Tells the trackers that the run has ended.
    ///
    /// # Errors
    /// If their files cannot be written.
    pub fn end_trackers(&mut self) -> Result<(), TrainError> {
        self.trackers.end()
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

    /// The logs, with all that they were told, for whoever brings them to the disk.
    ///
    /// # Errors
    /// If something still waits for room on a full disk.
    pub(super) fn logs(&mut self) -> Result<Vec<File>, TrainError> {
        let logs = [&mut self.metrics, &mut self.signals, &mut self.events];
        let logs = logs.into_iter().chain(&mut self.trace).chain(&mut self.generated);
        let mut files = Vec::new();
        for log in logs {
            log.settle()?;
            files.extend(log.file());
        }
        self.trackers.settle()?;
        Ok(files)
    }

    /// Appends a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn metric(&mut self, line: &Step) -> Result<(), TrainError> {
        self.metrics.line(line)?;
        self.trackers.metrics(line)
    }

    /// Tells the trackers the validation loss at the end, which `summary.json` holds.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn final_validation(&mut self, step: usize, seconds: f64, loss: f64) -> Result<(), TrainError> {
        self.trackers.validation(step, seconds, loss)
    }

    /// Tells the trackers the scores of benchmarks at the end, which `summary.json` holds.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn final_scores(&mut self, step: usize, seconds: f64, scores: &TaskScores) -> Result<(), TrainError> {
        self.trackers.scores(step, seconds, scores)
    }

    /// Appends a line to `generated.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn generated(&mut self, line: &Generated) -> Result<(), TrainError> {
        let generated = match &mut self.generated {
            Some(generated) => generated,
            place => place.insert(LogFile::open(&self.path.join(record::GENERATED))?),
        };
        generated.line(line)
    }

    /// Appends a line to `signals.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn signal(&mut self, line: &Signals) -> Result<(), TrainError> {
        self.signals.line(line)?;
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
            place => place.insert(LogFile::open(&self.path.join(record::TRACE))?),
        };
        trace.line(line)
    }

    /// Appends a line to `events.jsonl`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn event(&mut self, line: &Event) -> Result<(), TrainError> {
        self.events.line(line)
    }

    /// Writes a file of the directory in one piece: it is there whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<(), TrainError> {
        Ok(grades_fs::write(&self.path.join(name), contents)?)
    }
}
