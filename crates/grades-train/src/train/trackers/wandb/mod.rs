//! Weights & Biases: the directory that its client leaves offline, `wandb/offline-run-<date>-<id>`, which `wandb sync` sends.
//!
//! The numbers of fields are those of `wandb/proto/wandb_internal.proto`.

mod log;

use std::fs;
use std::path::{Path, PathBuf};

use grades_models::calendar;
use serde_json::{Map, Value, json};

use super::protobuf::{bytes, field, number, wrapped};
use super::{Opened, Tracks, Values};
use crate::train::TrainError;
use crate::train::log_file::LogFile;

/// The variants of a `Record`.
const HISTORY: u64 = 2;
const SUMMARY: u64 = 3;
const RUN: u64 = 17;
const EXIT: u64 = 18;
const HEADER: u64 = 21;

/// A run as W&B's client writes it without network.
#[derive(Debug)]
pub(super) struct OfflineRun {
    file: LogFile,
    /// Bytes of the file.
    length: u64,
    /// Records of it.
    count: u64,
    /// The last value of everything.
    last: Map<String, Value>,
}

impl OfflineRun {
    /// Begins it, or goes on with what it holds up to the step that a resumed run begins after.
    pub(super) fn open(opened: &Opened<'_>) -> Result<Self, TrainError> {
        let (folder, id) = (opened.run.join("wandb"), &opened.id[..16]);
        let path = match before(&folder, id).filter(|_| opened.resumed.is_some()) {
            Some(path) => path,
            None => {
                let [year, month, day, hour, minute, second] = calendar::utc(calendar::now());
                let time = format!("{year:04}{month:02}{day:02}_{hour:02}{minute:02}{second:02}");
                let folder = folder.join(format!("offline-run-{time}-{id}"));
                fs::create_dir_all(folder.join("files")).map_err(|source| TrainError::io(&folder, source))?;
                folder.join(format!("run-{id}.wandb"))
            }
        };
        let kept = match fs::read(&path) {
            Ok(text) => kept(&log::records(&text), opened.resumed.unwrap_or(0)),
            Err(_) => Vec::new(),
        };
        let mut whole = Vec::new();
        kept.iter().for_each(|record| whole.extend(log::framed(whole.len() as u64, record)));
        grades_fs::write(&path, &whole)?;
        // What says how much of it was sent, as it is another now.
        for sent in ["wandb.synced", "wandb.syncstate"] {
            let _ = fs::remove_file(path.with_extension(sent));
        }
        let (length, count) = (whole.len() as u64, kept.len() as u64);
        let mut run = Self { file: LogFile::open(&path)?, length, count, last: Map::new() };
        if kept.is_empty() {
            run.begin(opened, id)?;
        }
        Ok(run)
    }

    fn begin(&mut self, opened: &Opened<'_>, id: &str) -> Result<(), TrainError> {
        let mut version = Vec::new();
        bytes(&mut version, 1, concat!("grades ", env!("CARGO_PKG_VERSION")).as_bytes());
        bytes(&mut version, 2, b"0.0.0");
        self.append(HEADER, &wrapped(1, &version))?;

        let mut config = Vec::new();
        for (key, value) in opened.options.as_object().into_iter().flatten() {
            bytes(&mut config, 1, &item(1, key, value));
        }
        let time = calendar::now();
        let mut start = Vec::new();
        number(&mut start, 1, time.as_secs());
        number(&mut start, 2, time.subsec_nanos().into());
        let mut run = Vec::new();
        bytes(&mut run, 1, id.as_bytes());
        if let Some(entity) = &opened.config.wandb_entity {
            bytes(&mut run, 2, entity.as_bytes());
        }
        bytes(&mut run, 3, opened.project(opened.config.wandb_project.as_deref(), "WANDB_PROJECT").as_bytes());
        bytes(&mut run, 4, &config);
        bytes(&mut run, 8, opened.config.wandb_name.as_deref().unwrap_or(&opened.name).as_bytes());
        bytes(&mut run, 17, &start);
        self.append(RUN, &run)
    }

    /// Writes the last value of everything, which W&B shows in its tables.
    fn summarise(&mut self) -> Result<(), TrainError> {
        let mut summary = Vec::new();
        self.last.iter().for_each(|(key, value)| bytes(&mut summary, 1, &item(2, key, value)));
        if summary.is_empty() { Ok(()) } else { self.append(SUMMARY, &summary) }
    }

    fn append(&mut self, variant: u64, message: &[u8]) -> Result<(), TrainError> {
        let mut record = Vec::new();
        number(&mut record, 1, self.count + 1);
        bytes(&mut record, variant, message);
        let framed = log::framed(self.length, &record);
        self.file.append(&framed)?;
        self.length += framed.len() as u64;
        self.count += 1;
        Ok(())
    }
}

impl Tracks for OfflineRun {
    fn step(&mut self, values: &Values) -> Result<(), TrainError> {
        let own = [
            ("_step", json!(values.step)),
            ("_runtime", json!(values.seconds)),
            ("_timestamp", json!(values.time.as_secs_f64())),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value)).into_iter();
        let mut history = Vec::new();
        for (key, value) in own.chain(values.values.iter().map(|(key, value)| (key.clone(), json!(value)))) {
            bytes(&mut history, 1, &item(2, &key, &value));
            self.last.insert(key, value);
        }
        let mut step = Vec::new();
        number(&mut step, 1, values.step);
        bytes(&mut history, 2, &step);
        self.append(HISTORY, &history)
    }

    fn settle(&mut self) -> Result<(), TrainError> {
        self.summarise()?;
        self.file.settle()
    }

    fn end(&mut self) -> Result<(), TrainError> {
        let seconds = self.last.get("_runtime").and_then(Value::as_f64).unwrap_or(0.0);
        let mut exit = Vec::new();
        number(&mut exit, 2, seconds as u64);
        self.append(EXIT, &exit)?;
        self.file.settle()
    }
}

/// A key, as the field of this number, with a value as JSON.
fn item(key_field: u64, key: &str, value: &Value) -> Vec<u8> {
    let mut item = wrapped(key_field, key.as_bytes());
    bytes(&mut item, 16, value.to_string().as_bytes());
    item
}

/// The log that an interrupted run has left.
fn before(folder: &Path, id: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut paths = entries.map(|entry| entry.path().join(format!("run-{id}.wandb")));
    paths.find(|path| path.is_file())
}

/// The records that a run which goes on after a step has written until then.
fn kept(records: &[Vec<u8>], resumed: usize) -> Vec<Vec<u8>> {
    let later = |record: &Vec<u8>| {
        let history = field(record, HISTORY).and_then(|history| history.bytes());
        let step = history.and_then(|history| field(field(history, 2)?.bytes()?, 1)?.number());
        step.is_some_and(|step| step > resumed as u64)
    };
    records.iter().filter(|record| !later(record) && field(record, EXIT).is_none()).cloned().collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The steps of a log with the values of each.
    pub(in crate::train::trackers) fn history(path: &Path) -> Vec<(u64, Map<String, Value>)> {
        let text = fs::read(path).unwrap();
        let steps = log::records(&text).into_iter().filter_map(|record| {
            let history = field(&record, HISTORY)?.bytes()?.to_vec();
            let step = field(field(&history, 2)?.bytes()?, 1)?.number()?;
            Some((step, values(&history)))
        });
        steps.collect()
    }

    /// The items of a message, by the key that stands in field 1 or 2.
    fn values(message: &[u8]) -> Map<String, Value> {
        let (mut rest, mut values) = (message, Map::new());
        while let Some(item) = field(rest, 1).and_then(|item| item.bytes()) {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let key = field(item, 1).or(field(item, 2)).unwrap().bytes().unwrap();
            let value = field(item, 16).unwrap().bytes().unwrap();
            values.insert(text(key), serde_json::from_slice(value).unwrap());
            let end = item.as_ptr() as usize + item.len() - rest.as_ptr() as usize;
            rest = &rest[end..];
        }
        values
    }

    /// The only log below a run's directory.
    pub(in crate::train::trackers) fn path(run: &Path) -> PathBuf {
        let folder = fs::read_dir(run.join("wandb")).unwrap().next().unwrap().unwrap().path();
        let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|end| end == "wandb")).unwrap()
    }

    /// What the message classes of wandb 0.31.0 write for the same records (`SerializeToString`).
    #[test]
    fn records_are_those_of_wandb() {
        let folder = tempfile::tempdir().unwrap();
        let config = crate::config::Config {
            wandb_project: Some("p".to_owned()),
            wandb_entity: Some("e".to_owned()),
            ..crate::config::Config::default()
        };
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let options = json!({ "a": 1, "b": { "c": "x" } });
        let opened = Opened { run: folder.path(), name: "nm".to_owned(), id, config: &config, options, resumed: None };
        let mut run = OfflineRun::open(&opened).unwrap();
        let time = std::time::Duration::from_millis(1500);
        let values = vec![("train/loss".to_owned(), 2.5)];
        run.step(&Values { step: 300, seconds: 90.5, time, values }).unwrap();
        run.settle().unwrap();
        run.end().unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let records = log::records(&fs::read(path(folder.path())).unwrap());
        assert_eq!(records.len(), 5);
        let run = field(&records[1], RUN).unwrap().bytes().unwrap();
        assert_eq!(field(run, 1).unwrap().bytes(), Some(&b"0123456789abcdef"[..]));
        assert_eq!(values_of(run), json!({ "a": 1, "b": { "c": "x" } }));
        assert_eq!(hex(&records[2]), REFERENCE[0]);
        assert_eq!(hex(&records[3]), REFERENCE[1]);
        assert_eq!(hex(&records[4]), REFERENCE[2]);
    }

    fn values_of(run: &[u8]) -> Value {
        values(field(run, 4).unwrap().bytes().unwrap()).into()
    }

    const REFERENCE: [&str; 3] = [
        "0803124f0a0d12055f737465708201033330300a1112085f72756e74696d6582010439302e350a12120a5f74696d657374616d70820103\
         312e350a12120a747261696e2f6c6f7373820103322e35120308ac02",
        "08041a4a0a0d12055f737465708201033330300a1112085f72756e74696d6582010439302e350a12120a5f74696d657374616d70820103\
         312e350a12120a747261696e2f6c6f7373820103322e35",
        "0805920102105a",
    ];
}
