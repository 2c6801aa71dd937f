//! The history of a run as Weights & Biases keeps it: a JSON object a step, with `_step`, `_runtime` and `_timestamp`.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::train::TrainError;
use crate::train::log_file::LogFile;

/// `wandb/wandb-history.jsonl` of a run.
#[derive(Debug)]
pub(super) struct History(LogFile);

impl History {
    /// Begins it, or goes on with what it holds up to the step that a resumed run begins after.
    pub(super) fn open(run: &Path, resumed: Option<usize>) -> Result<Self, TrainError> {
        let path = run.join("wandb/wandb-history.jsonl");
        let io = |source| TrainError::io(&path, source);
        fs::create_dir_all(run.join("wandb")).map_err(io)?;
        if let (Some(resumed), true) = (resumed, path.exists()) {
            let text = fs::read_to_string(&path).map_err(io)?;
            let before = |line: &&str| {
                let line: Option<Value> = serde_json::from_str(line).ok();
                line.and_then(|line| line.get("_step")?.as_u64()).is_some_and(|step| step as usize <= resumed)
            };
            let kept: String = text.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
            grades_fs::write(&path, kept)?;
        }
        LogFile::open(&path).map(Self)
    }

    /// Appends a step.
    pub(super) fn write(&mut self, step: u64, seconds: f64, values: &[(String, f64)]) -> Result<(), TrainError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let mut line: Map<String, Value> =
            [("_step", json!(step)), ("_runtime", json!(seconds)), ("_timestamp", json!(now))]
                .map(|(key, value)| (key.to_owned(), value))
                .into_iter()
                .collect();
        line.extend(values.iter().map(|(name, value)| (name.clone(), json!(value))));
        self.0.line(&line)
    }

    pub(super) fn settle(&mut self) -> Result<(), TrainError> {
        self.0.settle()
    }
}
