//! Runs on rows with pictures: from files on disk to the losses of the reference.

use std::fs;
use std::path::{Path, PathBuf};

use grades_train::config::Config;
use grades_train::train::run;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use crate::runs::exclusive;
use crate::tiny_checkpoint::fixture;

/// A folder with the nanoVLM of the fixtures and its four rows.
struct Workspace(TempDir);

impl Workspace {
    fn new() -> Self {
        let workspace = Self(tempfile::tempdir().unwrap());
        let from = fixture("vision/nanovlm_split");
        copy(&from, &workspace.path("model"), &["config.json", "model.safetensors"]);
        copy(&from.join("tokenizer"), &workspace.path("model/tokenizer"), &["tokenizer.json", "tokenizer_config.json"]);
        copy(&from, &workspace.path("data"), &["rows.jsonl"]);
        workspace
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The records of the steps of a run of all rows at once.
    fn losses(&self, name: &str, options: &[&str]) -> Vec<f64> {
        let config = self.path(&format!("{name}.yaml"));
        let images = fixture("vision/images");
        let text = format!(
            "model: {}\noutput_dir: {}\ndatasets: [{{path: {}, type: cauldron, image_folder: {}}}]\nmicro_batch_size: 4\n\
             num_epochs: 3\nlearning_rate: 5e-3\nlr_scheduler: constant\nmax_grad_norm: 0\nprecision: f32\nsequence_len: 512\n\
             early_stopping: none\nseed: 0\n",
            self.path("model").display(),
            self.path(name).display(),
            self.path("data/rows.jsonl").display(),
            images.display()
        );
        fs::write(&config, text).unwrap();
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        run(&Config::load(&config, &options).unwrap(), false).unwrap();
        let metrics = fs::read_to_string(self.path(name).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
        metrics.lines().filter_map(loss).collect()
    }
}

fn copy(from: &Path, to: &Path, files: &[&str]) {
    fs::create_dir_all(to).unwrap();
    for file in files {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

fn expected(name: &str) -> f64 {
    let bytes = fs::read(fixture("vision/nanovlm_split/expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    f64::from(f32::from_le_bytes(tensor.data().try_into().unwrap()))
}

/// Decoded, resized, cut, encoded, placed, trained: three steps as nanoVLM's own code takes them, with a rate for each part.
#[test]
fn a_run_on_pictures_has_the_losses_of_the_reference() {
    let _guard = exclusive();
    let workspace = Workspace::new();
    let rates = ["vision_learning_rate=2e-3", "projector_learning_rate=1e-2", "weight_decay=0.01"];
    let losses = workspace.losses("run", &rates);
    assert_eq!(losses.len(), 3);
    // Vectors do not decay here: 5e-5 of them in two steps.
    for (step, tolerance) in [(1, 1e-5), (2, 1e-4), (3, 3e-4)] {
        let (found, expected) = (losses[step - 1], expected(&format!("loss.{step}")));
        assert!((found - expected).abs() < tolerance * expected, "step {step}: {found}, expected {expected}");
    }
}

/// The outputs of a frozen tower are kept, and the losses are those of a run that computes them at each step.
#[test]
fn a_frozen_tower_is_computed_once() {
    let _guard = exclusive();
    let workspace = Workspace::new();
    let frozen = ["freeze_vision_tower=true", "projector_learning_rate=1e-2"];
    let kept = workspace.losses("kept", &frozen);
    let computed = workspace.losses("computed", &[&frozen[..], &["vision_cache=off"]].concat());
    assert_eq!((kept.len(), computed.len()), (3, 3));
    for (kept, computed) in kept.iter().zip(&computed) {
        assert!((kept - computed).abs() < 1e-6 * computed, "{kept} {computed}");
    }
    let flops = |name: &str| -> u64 {
        let summary = fs::read(workspace.path(name).join("summary.json")).unwrap();
        serde_json::from_slice::<Value>(&summary).unwrap()["flops"]["forward"].as_u64().unwrap()
    };
    assert!(flops("kept") < flops("computed"));
    // Without the bound nothing else is different; with one too small nothing is kept.
    let small = workspace.losses("small", &[&frozen[..], &["vision_cache_size=1"]].concat());
    assert_eq!((small, flops("small")), (computed, flops("computed")));
}
