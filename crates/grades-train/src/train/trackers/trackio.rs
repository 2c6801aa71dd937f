//! Trackio: files of JSON lines in the inbox of its folder, as its own client leaves them where it cannot reach its database; the dashboard
//! (`trackio show`) takes them from there. Every line has a name, so that one which comes twice counts once.

use std::env;
use std::fs;
use std::path::PathBuf;

use grades_models::calendar;
use serde_json::{Map, Value, json};

use super::waits::Waits;
use super::{Opened, Tracks, Values, set};
use crate::train::TrainError;

/// A run that is told to Trackio.
#[derive(Debug)]
pub(super) struct Inbox {
    folder: PathBuf,
    project: String,
    name: String,
    id: String,
    /// With the first line.
    options: Value,
    /// The step of the last line, and how many lines it has.
    last: (u64, usize),
    waiting: String,
    waits: Waits,
}

impl Inbox {
    pub(super) fn open(opened: &Opened<'_>) -> Self {
        let folder = |variable: &str| set(variable).map(PathBuf::from);
        let folder = folder("TRACKIO_DIR").unwrap_or_else(|| {
            let home =
                folder("HF_HOME").unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache/huggingface"));
            home.join("trackio")
        });
        Self::within(folder, opened)
    }

    fn within(folder: PathBuf, opened: &Opened<'_>) -> Self {
        Self {
            folder: folder.join("inbox").join(&opened.id[..16]),
            project: opened.project(opened.config.trackio_project_name.as_deref(), "TRACKIO_PROJECT"),
            name: opened.name.clone(),
            id: opened.id.clone(),
            options: opened.options.clone(),
            last: (0, 0),
            waiting: String::new(),
            waits: Waits::new("Trackio"),
        }
    }

    /// Makes a file of what waits; where that fails it goes on waiting.
    fn flush(&mut self) {
        let written = if self.waiting.is_empty() { Ok(()) } else { self.write() };
        if written.is_ok() {
            self.waiting.clear();
        }
        self.waits.tried(written);
    }

    fn write(&self) -> Result<(), TrainError> {
        // Whoever takes the last file takes the folder as well.
        fs::create_dir_all(&self.folder).map_err(|source| TrainError::io(&self.folder, source))?;
        let names = (calendar::now().as_millis()..).map(|time| self.folder.join(format!("{time}.jsonl")));
        let free = names.into_iter().find(|path| !path.exists()).unwrap_or_default();
        Ok(grades_fs::create(&free, &self.waiting)?)
    }
}

impl Tracks for Inbox {
    fn step(&mut self, values: &Values) -> Result<(), TrainError> {
        self.last = (values.step, if self.last.0 == values.step { self.last.1 + 1 } else { 0 });
        let [year, month, day, hour, minute, second] = calendar::utc(values.time);
        let micros = values.time.subsec_micros();
        let metrics: Map<String, Value> =
            values.values.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let line = json!({
            "v": 1, "kind": "metric", "project": self.project, "run": self.name, "run_id": self.id,
            "metrics": metrics, "step": values.step,
            "timestamp": format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00"),
            "config": self.options.take(), "log_id": format!("{}-{}-{}", self.id, values.step, self.last.1),
        });
        self.waiting.push_str(&format!("{line}\n"));
        if self.waits.are_over() {
            self.flush();
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TrainError> {
        self.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    #[test]
    fn lines_have_names_and_the_first_one_the_options() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { trackio_project_name: Some("p".to_owned()), ..Config::default() };
        let (id, options) = ("0123456789abcdef".repeat(2), json!({ "seed": 42 }));
        let opened = Opened {
            run: folder.path(),
            name: "first".to_owned(),
            id: id.clone(),
            config: &config,
            options,
            resumed: None,
        };
        let mut inbox = Inbox::within(folder.path().to_owned(), &opened);
        let time = Duration::from_micros(1_795_907_571_000_005);
        for step in [1, 2, 2] {
            let values = vec![("train/loss".to_owned(), 2.5)];
            inbox.step(&Values { step, seconds: 0.0, time, values }).unwrap();
            inbox.settle().unwrap();
        }
        inbox.settle().unwrap();
        let written = folder.path().join("inbox/0123456789abcdef");
        let mut files: Vec<PathBuf> = fs::read_dir(written).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let lines: Vec<Value> =
            files.iter().map(|path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()).collect();
        let expected = json!({
            "v": 1, "kind": "metric", "project": "p", "run": "first", "run_id": id, "metrics": { "train/loss": 2.5 },
            "step": 1, "timestamp": "2026-11-28T23:12:51.000005+00:00", "config": { "seed": 42 },
            "log_id": format!("{id}-1-0"),
        });
        assert_eq!(lines[0], expected);
        let names: Vec<&Value> = lines.iter().map(|line| &line["log_id"]).collect();
        assert_eq!(names[1..], [&json!(format!("{id}-2-0")), &json!(format!("{id}-2-1"))]);
        assert!(lines[1]["config"].is_null());
    }
}
