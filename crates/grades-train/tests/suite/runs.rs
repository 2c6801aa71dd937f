//! Runs of the trainer in a temporary folder, and their records.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use grades_models::weights::{Checkpoint, SaveDtype, SaveOptions, TensorToSave, save_checkpoint};
use grades_report::record::Summary;
use grades_train::config::Config;
use grades_train::train::{TrainError, run};
use serde_json::Value;
use tempfile::TempDir;

use crate::tiny_checkpoint;

/// Values of one layer's matrices of the checkpoint, and of single ones.
pub(crate) const LAYER: usize = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32;
pub(crate) const Q: usize = 32 * 32;
/// All values of the checkpoint: embedding, two layers with two norms each, last norm.
pub(crate) const ALL: usize = 96 * 32 + 2 * (LAYER + 2 * 32) + 32;

/// Executed operations are counted by process, so only one model may compute at a time.
pub(crate) fn exclusive() -> MutexGuard<'static, ()> {
    static COUNTERS: Mutex<()> = Mutex::new(());
    COUNTERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder with `model/` and `data.jsonl` of 20 sentences.
pub(crate) struct Workspace(Rc<TempDir>);

impl Workspace {
    pub(crate) fn new() -> Self {
        Self::of("llama")
    }

    /// With a model of another family.
    pub(crate) fn of(family: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny_checkpoint::write(&folder.path().join("model"), family);
        tiny_checkpoint::write_sentences(&folder.path().join("data.jsonl"), 20);
        Self(Rc::new(folder))
    }

    /// With a head of its own in place of the tied embedding.
    pub(crate) fn untied() -> Self {
        let workspace = Self::new();
        let tied = Checkpoint::open(tiny_checkpoint::fixture("llama")).unwrap();
        let mut config = tied.config().unwrap().clone();
        config["tie_word_embeddings"] = false.into();
        let tensors = tied.names().chain(["lm_head.weight"]).map(|name| {
            let source = if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
            TensorToSave::new(name, &tied.info(source).unwrap().shape, tied.load_f32(source).unwrap())
        });
        let model = workspace.path("model");
        for name in ["config.json", "model.safetensors"] {
            fs::remove_file(model.join(name)).unwrap();
        }
        save_checkpoint(&model, &config, tensors, &SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() })
            .unwrap();
        workspace
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A config of 8 steps of 4 samples at a constant rate without early stopping, changed by `options`.
    pub(crate) fn config(&self, name: &str, options: &[&str]) -> Config {
        let folder = self.0.path().display();
        let yaml = format!(
            "model: {folder}/model\noutput_dir: {folder}/{name}\nsequence_len: 128\nmicro_batch_size: 4\nmax_steps: 8\n\
             datasets: [{{path: {folder}/data.jsonl, type: completion}}]\nlearning_rate: 0.01\nlr_scheduler: constant\n\
             early_stopping: none\nprecision: f32\n"
        );
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Config::parse(&yaml, &options).unwrap()
    }

    pub(crate) fn attempt(&self, name: &str, options: &[&str]) -> Result<Summary, TrainError> {
        let config = self.config(name, options);
        let _counters = exclusive();
        run(&config, false)
    }

    pub(crate) fn train(&self, name: &str, options: &[&str]) -> Run {
        let summary = self.attempt(name, options).unwrap();
        Run { path: self.path(name), summary, _folder: self.0.clone() }
    }
}

/// A finished run.
pub(crate) struct Run {
    pub(crate) path: PathBuf,
    pub(crate) summary: Summary,
    /// Keeps the workspace's folder.
    _folder: Rc<TempDir>,
}

impl Run {
    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn metrics(&self) -> Vec<Value> {
        self.lines("metrics.jsonl")
    }

    /// One number of every step.
    pub(crate) fn metric(&self, name: &str) -> Vec<f64> {
        self.metrics().iter().map(|line| line.pointer(name).unwrap().as_f64().unwrap()).collect()
    }

    pub(crate) fn signals(&self) -> Vec<Value> {
        self.lines("signals.jsonl")
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.lines("events.jsonl")
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path.join(name)).unwrap()).unwrap()
    }

    /// The tensors of one of its files.
    pub(crate) fn weights_of(&self, name: &str) -> BTreeMap<String, Vec<f32>> {
        weights(&self.path.join(name))
    }

    /// The bytes of what it has saved: the model, or its adapter.
    pub(crate) fn weights_of_end(&self) -> Vec<u8> {
        let names = ["model.safetensors", "adapter_model.safetensors"];
        let found = names.iter().find_map(|name| fs::read(self.summary.model_dir.join(name)).ok());
        found.unwrap()
    }

    /// The saved model's tensors.
    pub(crate) fn weights(&self) -> BTreeMap<String, Vec<f32>> {
        weights(&self.summary.model_dir)
    }
}

/// A checkpoint's tensors.
pub(crate) fn weights(model: &Path) -> BTreeMap<String, Vec<f32>> {
    let checkpoint = Checkpoint::open(model).unwrap();
    checkpoint.names().map(|name| (name.to_owned(), checkpoint.load_f32(name).unwrap())).collect()
}

/// ‖found − expected‖ / ‖expected‖.
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x).powi(2);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    let size: f64 = expected.iter().copied().map(square).sum();
    (difference / size.max(1e-30)).sqrt()
}
