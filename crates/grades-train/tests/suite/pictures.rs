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

    /// The losses of a run of all rows at once.
    fn losses(&self, name: &str, options: &[&str]) -> Vec<f64> {
        self.train(name, options);
        self.metric(name, "/loss")
    }

    fn train(&self, name: &str, options: &[&str]) {
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
    }

    /// What a run says of its steps.
    fn metric(&self, name: &str, pointer: &str) -> Vec<f64> {
        let metrics = fs::read_to_string(self.path(name).join("metrics.jsonl")).unwrap();
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap().pointer(pointer).and_then(Value::as_f64);
        metrics.lines().filter_map(value).collect()
    }

    /// Operations of the forward passes of its steps.
    fn forward(&self, name: &str) -> Vec<f64> {
        self.metric(name, "/flops/forward")
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

/// Answers about pictures, asked between steps, change nothing either; benchmarks of one's own with pictures are scored as `eval` does.
#[test]
fn a_model_answers_about_pictures_while_it_trains() {
    let _guard = exclusive();
    let workspace = Workspace::new();
    copy(&fixture("vision/images"), &workspace.path(""), &["small.png"]);
    let question = serde_json::json!({ "image": "small.png", "question": "what is it?", "answer": "a picture" });
    fs::write(workspace.path("own.jsonl"), format!("{question}\n")).unwrap();
    let tasks = format!("eval_tasks=[{}]", workspace.path("own.jsonl").display());
    let shared = ["num_epochs=2", "val_set_size=2", "micro_batch_size=1", "eval_steps=1", "early_stopping=none"];
    workspace.train("without", &shared);
    workspace.train("with", &[&shared[..], &["generate_samples=2", "generation_max_new_tokens=4", &tasks]].concat());
    let model = |name: &str| fs::read(workspace.path(name).join("model/model.safetensors")).unwrap();
    assert!(model("with") == model("without"));
    for pointer in ["/loss", "/val_loss", FRESH, "/pictures"] {
        assert_eq!(workspace.metric("with", pointer), workspace.metric("without", pointer), "{pointer}");
    }
    assert_eq!(workspace.metric("with", "/eval_tasks/own/exact_match").len(), 3);
    let lines = fs::read_to_string(workspace.path("with/generated.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 8);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["prompt"].as_str().unwrap().contains("⟨picture 1⟩"), "{line}");
    }
}

fn assert_same(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6 * expected, "{found}, expected {expected}");
    }
}

const FROZEN: [&str; 2] = ["freeze_vision_tower=true", "projector_learning_rate=1e-2"];
const FRESH: &str = "/computed_pictures";

/// What a frozen tower makes of pictures is kept, and the losses are those of a run that computes it at each step.
#[test]
fn a_frozen_tower_is_computed_once() {
    let _guard = exclusive();
    let workspace = Workspace::new();
    let computed = workspace.losses("computed", &[&FROZEN[..], &["vision_cache=off"]].concat());
    let pictures = workspace.metric("computed", "/pictures");
    assert!(pictures[0] > 2.0 && pictures.iter().all(|count| *count == pictures[0]));
    for place in ["memory", "disk"] {
        assert_same(&workspace.losses(place, &[&FROZEN[..], &[&format!("vision_cache={place}")]].concat()), &computed);
        // After the first step nothing is decoded, resized or computed below the projector.
        let fresh = workspace.metric(place, FRESH);
        assert!(fresh[0] > 0.0 && fresh[1..] == [0.0, 0.0], "{fresh:?}");
        let (kept, all) = (workspace.forward(place), workspace.forward("computed"));
        assert!(kept[1] == kept[2] && kept[1] < 0.7 * all[1], "{kept:?} {all:?}");
        assert!(!workspace.path(place).join("vision-features").exists());
    }
    // Half as large, and rounded.
    let bytes = |name: &str| workspace.metric(name, "/vision_cache_bytes")[2];
    let rounded = workspace.losses("rounded", &[&FROZEN[..], &["vision_cache_dtype=bf16"]].concat());
    assert!(rounded.iter().zip(&computed).all(|(rounded, exact)| (rounded / exact - 1.0).abs() < 1e-2));
    assert!(rounded[1..] != computed[1..] && 2.0 * bytes("rounded") == bytes("memory"));
    // With room for some of them the rest is computed each time; with none all are.
    let most = format!("vision_cache_size={}B", bytes("memory") / 2.0);
    assert_same(&workspace.losses("half", &[&FROZEN[..], &[&most]].concat()), &computed);
    let fresh = workspace.metric("half", FRESH);
    assert!(fresh[1] > 0.0 && fresh[1] == fresh[2] && fresh[1] < fresh[0] && bytes("half") <= bytes("memory") / 2.0);
    let small = workspace.losses("small", &[&FROZEN[..], &["vision_cache_size=0B"]].concat());
    assert_eq!((small, workspace.forward("small")), (computed, workspace.forward("computed")));
    // Where the projector stays as well, nothing of what reads pictures is left to compute.
    let whole = [&FROZEN[..1], &["freeze_multi_modal_projector=true"]].concat();
    let computed = workspace.losses("computed-whole", &[&whole[..], &["vision_cache=off"]].concat());
    assert_same(&workspace.losses("whole", &whole), &computed);
    let (rows, outputs) = (workspace.forward("whole"), workspace.forward("memory"));
    assert!(rows[1] < outputs[1] && bytes("whole") < bytes("memory"));
}

/// From the step on at which GradES has frozen all of the tower, or its first layers.
#[test]
fn a_tower_that_early_stopping_freezes_is_computed_once() {
    let _guard = exclusive();
    let workspace = Workspace::new();
    for (name, frozen) in [("whole", "vision.*"), ("first", "vision.0.*")] {
        let method = format!(
            "early_stopping={{method: grades, alpha: 0.25, companions: follow, tau: {{\"{frozen}\": 1.0e9, default: 1.0e-9}}}}"
        );
        let options = ["num_epochs=8", "vision_learning_rate=2e-3", "projector_learning_rate=1e-2", &method];
        let computed = format!("computed-{name}");
        let expected = workspace.losses(&computed, &[&options[..], &["vision_cache=off"]].concat());
        assert_same(&workspace.losses(name, &options), &expected);
        let fresh = workspace.metric(name, FRESH);
        let first = fresh.iter().position(|&fresh| fresh == 0.0).unwrap();
        assert!((2..6).contains(&first) && fresh[first..].iter().all(|&fresh| fresh == 0.0), "{name}: {fresh:?}");
        let (less, more) = (workspace.forward(name), workspace.forward(&computed));
        assert_eq!(less[..first - 1], more[..first - 1]);
        assert!(less[first..].iter().zip(&more[first..]).all(|(less, more)| less < more), "{name}");
    }
}

/// A run that goes on from a checkpoint has the losses of one that was never interrupted, and finds what that one kept on disk.
#[test]
fn what_is_kept_on_disk_is_found_by_a_resumed_run() {
    let _guard = exclusive();
    let workspace = Workspace::new();
    let folder = format!("vision_cache_dir={}", workspace.path("features").display());
    let options = [&FROZEN[..], &["vision_cache=disk", &folder, "save_steps=1"]].concat();
    let whole = workspace.losses("whole", &options);
    let resume = format!("resume_from_checkpoint={}", workspace.path("whole/checkpoints/step-000001").display());
    let resumed = workspace.losses("resumed", &[&options[..], &[&resume]].concat());
    assert_eq!(resumed, whole[1..]);
    assert_eq!(workspace.metric("resumed", FRESH), [0.0, 0.0]);
    // Of a tower with other values it says nothing.
    let values = workspace.path("model/model.safetensors");
    let mut bytes = fs::read(&values).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    bytes[header..].as_chunks_mut().0.iter_mut().for_each(|number| {
        *number = (1.01 * f32::from_le_bytes(*number)).to_le_bytes();
    });
    fs::write(&values, bytes).unwrap();
    workspace.train("other", &options);
    let fresh = workspace.metric("other", FRESH);
    assert!(fresh[0] > 0.0 && fresh[1..] == [0.0, 0.0], "{fresh:?}");
}
