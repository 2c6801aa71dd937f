//! MLflow's file store: a folder of experiments, each with a folder a run, in which every parameter, tag and metric is a file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use grades_models::calendar;
use serde_json::{Map, Value, json};

use super::super::waits::Waits;
use super::super::{Opened, Tracks, Values};
use super::{TAG, named, parameters};
use crate::train::TrainError;

/// MLflow's numbers of a run's state.
const RUNNING: u64 = 1;
const FINISHED: u64 = 3;

/// A run in a file store.
#[derive(Debug)]
pub(super) struct FileStore {
    run: PathBuf,
    meta: Map<String, Value>,
    /// Lines that are not in their files yet, by metric.
    waiting: BTreeMap<String, String>,
    waits: Waits,
}

impl FileStore {
    /// Begins a run, or goes on with what it holds up to the step that a resumed one begins after.
    pub(super) fn open(opened: &Opened<'_>, root: &Path, experiment: &str) -> Result<Self, TrainError> {
        let root = std::path::absolute(root).map_err(|source| TrainError::io(root, source))?;
        if !root.exists() {
            // MLflow makes this one with the store.
            let folder = root.join("0");
            make(&folder)?;
            write_meta(&folder, &experiment_meta(&folder, "0", "Default"))?;
        }
        let folder = match find(&root, experiment) {
            Some(folder) => folder,
            None => {
                let id = number_of(&opened.id);
                let folder = root.join(&id);
                make(&folder)?;
                write_meta(&folder, &experiment_meta(&folder, &id, experiment))?;
                folder
            }
        };
        let run = folder.join(&opened.id);
        let resumed = opened.resumed.filter(|_| run.is_dir());
        let meta = match resumed {
            Some(step) => {
                cut(&run.join("metrics"), step)?;
                read_meta(&run).unwrap_or_default()
            }
            None => begin(opened, &folder, &run)?,
        };
        let mut store = Self { run, meta, waiting: BTreeMap::new(), waits: Waits::new("MLflow") };
        store.meta.insert("status".to_owned(), RUNNING.into());
        write_meta(&store.run, &store.meta)?;
        Ok(store)
    }

    /// Writes what waits; where that fails it goes on waiting.
    fn flush(&mut self) {
        let mut written = Ok(());
        self.waiting.retain(|name, lines| match append(&self.run.join("metrics").join(name), lines) {
            Ok(()) => false,
            Err(error) => {
                written = Err(format!("{}: {error}", self.run.display()));
                true
            }
        });
        self.waits.tried(written);
    }
}

impl Tracks for FileStore {
    fn step(&mut self, values: &Values) -> Result<(), TrainError> {
        let time = values.time.as_millis();
        for (name, value) in &values.values {
            let lines = self.waiting.entry(named(name)).or_default();
            lines.push_str(&format!("{time} {value} {}\n", values.step));
        }
        if self.waits.are_over() {
            self.flush();
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TrainError> {
        self.flush();
        Ok(())
    }

    fn end(&mut self) -> Result<(), TrainError> {
        self.flush();
        self.meta.insert("status".to_owned(), FINISHED.into());
        self.meta.insert("end_time".to_owned(), json!(calendar::now().as_millis() as u64));
        write_meta(&self.run, &self.meta)
    }
}

/// Makes a run's folder with what does not change.
fn begin(opened: &Opened<'_>, experiment: &Path, run: &Path) -> Result<Map<String, Value>, TrainError> {
    for part in ["artifacts", "metrics", "params", "tags"] {
        make(&run.join(part))?;
    }
    for (name, value) in parameters(&opened.options) {
        grades_fs::write(&run.join("params").join(name), value)?;
    }
    for (name, value) in [(TAG, &*opened.id), ("mlflow.runName", &opened.name), ("mlflow.source.type", "LOCAL")] {
        grades_fs::write(&run.join("tags").join(name), value)?;
    }
    let experiment = experiment.file_name().unwrap_or_default().to_string_lossy();
    let meta = json!({
        "artifact_uri": format!("file://{}", run.join("artifacts").display()),
        "end_time": null, "entry_point_name": "", "experiment_id": experiment, "lifecycle_stage": "active",
        "run_id": opened.id, "run_name": opened.name, "source_name": "", "source_type": 4, "source_version": "",
        "start_time": calendar::now().as_millis() as u64, "status": RUNNING, "tags": [], "user_id": "",
    });
    Ok(meta.as_object().cloned().unwrap_or_default())
}

fn experiment_meta(folder: &Path, id: &str, name: &str) -> Map<String, Value> {
    let time = calendar::now().as_millis() as u64;
    let meta = json!({
        "artifact_location": format!("file://{}", folder.display()), "creation_time": time, "experiment_id": id,
        "last_update_time": time, "lifecycle_stage": "active", "name": name,
    });
    meta.as_object().cloned().unwrap_or_default()
}

/// The folder of an experiment.
fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(root).ok()?.flatten().map(|entry| entry.path());
    let has = |meta: &Map<String, Value>, key: &str, value: &str| meta.get(key).is_some_and(|is| is == value);
    let is_it = |meta: &Map<String, Value>| has(meta, "name", name) && has(meta, "lifecycle_stage", "active");
    let mut folders = folders;
    folders.find(|folder| read_meta(folder).is_some_and(|meta| is_it(&meta)))
}

/// The number that a new experiment is known by, of 18 digits as MLflow's.
fn number_of(id: &str) -> String {
    let number = id.get(..15).and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0);
    format!("{:018}", 100_000_000_000_000_000 + number % 900_000_000_000_000_000)
}

fn read_meta(folder: &Path) -> Option<Map<String, Value>> {
    let text = fs::read_to_string(folder.join("meta.yaml")).ok()?;
    serde_saphyr::from_str(&text).ok()
}

fn write_meta(folder: &Path, meta: &Map<String, Value>) -> Result<(), TrainError> {
    // JSON in a file of YAML: numbers in quotes stay texts, whatever reads it.
    let lines: Vec<String> = meta.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    Ok(grades_fs::write(&folder.join("meta.yaml"), lines.concat())?)
}

fn make(folder: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(|source| TrainError::io(folder, source))
}

fn append(path: &Path, lines: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let mut file = File::options().append(true).create(true).open(path)?;
    let before = file.metadata()?.len();
    // Not half of them, or they would come twice.
    file.write_all(lines.as_bytes()).inspect_err(|_| drop(file.set_len(before)))
}

/// Takes away what metrics hold of steps after `step`.
fn cut(folder: &Path, step: usize) -> Result<(), TrainError> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            cut(&path, step)?;
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|source| TrainError::io(&path, source))?;
        let before = |line: &&str| {
            let of: Option<usize> = line.rsplit(' ').next().and_then(|of| of.parse().ok());
            of.is_some_and(|of| of <= step)
        };
        let kept: String = text.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
        grades_fs::write(&path, kept)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_run_is_a_folder_that_a_resumed_one_goes_on_in() {
        let root = tempfile::tempdir().unwrap();
        let (config, root) = (Config::default(), root.path().join("mlruns"));
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let opened = |resumed| Opened {
            run: &root,
            name: "first".to_owned(),
            id: id.clone(),
            config: &config,
            options: json!({ "seed": 42, "early_stopping": { "method": "none" } }),
            resumed,
        };
        let told = |store: &mut FileStore, step: u64| {
            let values = vec![("train/loss".to_owned(), 2.5), ("signals/language.0.q".to_owned(), 1e-9)];
            store.step(&Values { step, seconds: 0.0, time: Duration::from_millis(7), values }).unwrap();
        };
        let mut store = FileStore::open(&opened(None), &root, "piqa").unwrap();
        (1..=3).for_each(|step| told(&mut store, step));
        store.settle().unwrap();
        let run = store.run.clone();
        let read = |name: &str| fs::read_to_string(run.join(name)).unwrap();
        assert_eq!(read("metrics/train/loss"), "7 2.5 1\n7 2.5 2\n7 2.5 3\n");
        assert_eq!((read("params/seed"), read("params/early_stopping.method")), ("42".to_owned(), "none".to_owned()));
        let state = || read_meta(&run).unwrap()["status"].clone();
        assert_eq!((state(), read("tags/mlflow.runName")), (1.into(), "first".to_owned()));

        let mut store = FileStore::open(&opened(Some(1)), &root, "piqa").unwrap();
        assert_eq!(store.run, run);
        told(&mut store, 2);
        store.end().unwrap();
        assert_eq!(read("metrics/signals/language.0.q"), "7 0.000000001 1\n7 0.000000001 2\n");
        assert_eq!(state(), 3);
        // The experiment is there once, beside the one that every store has.
        let again = FileStore::open(&Opened { id: "f".repeat(32), ..opened(None) }, &root, "piqa").unwrap();
        assert_eq!(again.run.parent(), run.parent());
        assert_eq!(find(&root, "Default"), Some(root.join("0")));
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_written_waits() {
        let root = tempfile::tempdir().unwrap();
        let config = Config::default();
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let (name, options) = ("first".to_owned(), json!({}));
        let opened = Opened { run: root.path(), name, id, config: &config, options, resumed: None };
        let mut store = FileStore::open(&opened, &root.path().join("mlruns"), "Default").unwrap();
        let metrics = store.run.join("metrics");
        fs::remove_dir(&metrics).unwrap();
        grades_fs::write(&metrics, "in the way").unwrap();
        for step in 1..=2 {
            let values = vec![("loss".to_owned(), 2.0)];
            store.step(&Values { step, seconds: 0.0, time: Duration::ZERO, values }).unwrap();
            store.settle().unwrap();
        }
        fs::remove_file(&metrics).unwrap();
        store.settle().unwrap();
        assert_eq!(fs::read_to_string(metrics.join("loss")).unwrap(), "0 2 1\n0 2 2\n");
    }
}
