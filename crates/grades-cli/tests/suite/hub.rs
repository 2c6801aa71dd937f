//! Data sets and models of the Hugging Face Hub, played by a server on this machine.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fake_hub::{Answer, FakeHub};
use crate::program::{Called, Workspace};

/// The rows of the workspace's `piqa/validation.jsonl`, which `fixtures/make_parquet.py` wrote.
const ROWS: &[u8] = include_bytes!("../../../../fixtures/parquet/piqa.parquet");
const ID: &str = "baber/piqa";

fn hub() -> FakeHub {
    FakeHub::new(ID, "refs%2Fconvert%2Fparquet", &[("default/validation/0000.parquet", ROWS)])
}

#[track_caller]
fn accuracy(called: &Called) -> Value {
    assert!(called.succeeded(), "{}", called.stderr());
    let mut result: Value = serde_json::from_str(&called.stdout()).unwrap();
    let task = result["tasks"]["piqa"].as_object_mut().unwrap();
    assert_eq!(task["n"], 5);
    task.remove("seconds");
    task.remove("questions_per_second");
    result
}

#[test]
fn a_benchmark_is_fetched_once_and_scored_as_from_a_folder() {
    let (workspace, hub) = (Workspace::new(), hub());
    let eval = ["eval", "--model", "model", "--tasks", "piqa", "--json"];
    let online = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "secret")];
    let fetched = accuracy(&workspace.call_with(&online, &eval));
    assert_eq!(fetched, accuracy(&workspace.call(&[&eval[..], &["--data-dir", "."]].concat())));
    let asked = hub.requests();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked.iter().all(|request| request.to_ascii_lowercase().ends_with("authorization: bearer secret")),
        "{asked:?}"
    );
    assert_eq!(fetched, accuracy(&workspace.call(&eval)));

    // A folder `data` has it before the Hub.
    std::fs::create_dir(workspace.path("data")).unwrap();
    std::fs::rename(workspace.path("piqa"), workspace.path("data/piqa")).unwrap();
    std::fs::remove_dir_all(workspace.path("hub")).unwrap();
    assert_eq!(fetched, accuracy(&workspace.call(&eval)));
}

#[test]
fn benchmarks_about_pictures_are_fetched_with_their_pictures() {
    let workspace = Workspace::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").canonicalize().unwrap();
    let model = fixtures.join("vision/qwen2_5_vl_rows").to_str().unwrap().to_owned();
    let bytes = |name: &str| std::fs::read(fixtures.join("parquet").join(name)).unwrap();
    let [questions, pictures, stars] = ["gqa_questions.parquet", "gqa_pictures.parquet", "mmstar.parquet"].map(bytes);
    // GQA's questions name pictures of another configuration; MMStar holds its own.
    let gqa: &[(&str, &[u8])] = &[
        ("testdev_balanced_images/testdev/0000.parquet", &pictures),
        ("testdev_balanced_instructions/testdev/0000.parquet", &questions),
        ("val_balanced_images/val/0000.parquet", b"nothing that may be asked for"),
    ];
    let sets =
        [("gqa", "lmms-lab/GQA", gqa), ("mmstar", "Lin-Chen/MMStar", &[("val/val/0000.parquet", stars.as_slice())])];
    for (task, id, files) in sets {
        let hub = FakeHub::new(id, "refs%2Fconvert%2Fparquet", files);
        let answers = |variables: &[(&str, &str)], more: &[&str]| {
            let eval = ["eval", "--model", &model, "--tasks", task, "--samples", "answers.jsonl"];
            let called = workspace.call_with(variables, &[&eval[..], more].concat());
            assert!(called.succeeded(), "{}", called.stderr());
            let answers = std::fs::read_to_string(workspace.path("answers.jsonl")).unwrap();
            std::fs::remove_file(workspace.path("answers.jsonl")).unwrap();
            answers
        };
        let fetched = answers(&[("HF_ENDPOINT", &hub.endpoint)], &[]);
        assert_eq!(fetched.lines().count(), 3);
        let asked = hub.requests();
        assert!(asked.iter().all(|request| !request.contains("val_balanced_images")), "{asked:?}");
        let offline = [("HF_HUB_OFFLINE", "1")];
        assert_eq!(fetched, answers(&offline, &[]), "from the cache");
        for (name, bytes) in files {
            let path = workspace.path("data").join(task).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::remove_dir_all(workspace.path("hub")).unwrap();
        assert_eq!(fetched, answers(&offline, &["--data-dir", "data"]), "from a folder");
    }
}

#[test]
fn training_and_comparing_read_the_hub_as_well() {
    let (workspace, hub) = (Workspace::new(), hub());
    let online = [("HF_ENDPOINT", hub.endpoint.as_str())];
    let data = [
        "datasets.0.path=baber/piqa",
        "datasets.0.type=piqa",
        "datasets.0.split=validation",
        "datasets.0.name=default",
    ];
    let compare =
        ["compare", "config.yaml", "--methods", "none", "--seeds", "1", "--tasks", "piqa", "--out", "all", "--json"];
    let compared = workspace.call_with(&online, &[&compare[..], &data[..]].concat());
    assert!(compared.succeeded(), "{}", compared.stderr());
    assert_eq!(hub.requests().len(), 2, "the set is fetched once for all runs and scores");
    let trained = workspace.call(&[&["train", "config.yaml"][..], &data[..]].concat());
    assert!(trained.succeeded(), "{}", trained.stderr());
    let config = std::fs::read_to_string(workspace.path("run/config.yaml")).unwrap();
    assert!(config.contains("path: baber/piqa") && config.contains("name: default"), "{config}");
}

#[test]
fn what_is_wrong_with_the_hub_is_told_before_anything_is_made() {
    let (workspace, hub) = (Workspace::new(), hub());
    let online = [("HF_ENDPOINT", hub.endpoint.as_str())];
    let train = |variables: &[(&str, &str)], option: &str, parts: &[&str]| {
        let called = workspace.call_with(variables, &["train", "config.yaml", option]);
        let told = called.stderr();
        assert!(!called.succeeded() && told.starts_with("error: ") && told.lines().count() == 1, "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        assert!(!workspace.path("run").exists());
    };
    train(&[("HF_HUB_OFFLINE", "1")], "datasets.0.path=owner/set", &["owner/set", "HF_HUB_OFFLINE"]);
    train(&online, "datasets.0.path=owner/set", &["owner/set", "no such file or folder"]);
    train(&online, "datasets.0.path=baber/piqa", &["baber/piqa", "`train`", "default/validation"]);
    hub.answer("/api/datasets/owner/set/revision/main", Answer::refusal("403 Forbidden", "GatedRepo"));
    train(&online, "datasets.0.path=owner/set", &["/datasets/owner/set", "HF_TOKEN"]);
    train(&online, "datasets.0.revision=main", &["data.jsonl", "revision"]);
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_token_goes_to_the_hub_and_nowhere_else() {
    let (workspace, hub) = (Workspace::new(), hub());
    let (token, person) = ("hf_forTheHubAlone", "somebody-by-name");
    let home = format!("/home/{person}");
    let (key, password) = ("key-of-wandb", "password-of-mlflow");
    let variables = [
        ("HF_ENDPOINT", hub.endpoint.as_str()),
        ("HF_TOKEN", token),
        ("HOME", &home),
        ("USER", person),
        ("WANDB_API_KEY", key),
        ("MLFLOW_TRACKING_USERNAME", "user-of-mlflow"),
        ("MLFLOW_TRACKING_PASSWORD", password),
        ("MLFLOW_TRACKING_TOKEN", password),
        ("TRACKIO_WRITE_TOKEN", key),
    ];
    let data = ["datasets.0.path=baber/piqa", "datasets.0.type=piqa", "datasets.0.split=validation"];
    let train =
        |more: &[&str]| workspace.call_with(&variables, &[&["train", "config.yaml"][..], &data[..], more].concat());
    let trained =
        train(&["early_stopping.trace=true", "save_steps=1", "report_to=[tensorboard, wandb, mlflow, trackio]"]);
    assert!(workspace.path("mlruns/0").is_dir() && workspace.path("hub/trackio/inbox").is_dir());
    assert!(trained.succeeded(), "{}", trained.stderr());
    hub.answer("/api/datasets/owner/set/revision/main", Answer::refusal("403 Forbidden", "GatedRepo"));
    let refused = train(&["datasets.0.path=owner/set", "output_dir=other"]);
    let compared = workspace
        .call_with(&variables, &["compare", "config.yaml", "--methods", "none", "--seeds", "1", "--out", "all"]);
    assert!(!refused.succeeded() && compared.succeeded(), "{}", compared.stderr());
    let asked = hub.requests();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.ends_with(token)), "{asked:?}");
    for called in [&trained, &refused, &compared] {
        let said = called.stdout() + &called.stderr();
        assert!([token, person, key, password].iter().all(|secret| !said.contains(secret)), "{said}");
    }
    let holds = |path: &Path, word: &str| {
        std::fs::read(path).unwrap().windows(word.len()).any(|window| window == word.as_bytes())
    };
    let written = files(workspace.path("").as_path());
    assert!(
        written.iter().any(|path| path.ends_with("run/report.html"))
            && written.iter().any(|path| path.ends_with("compare.html"))
    );
    for path in &written {
        assert!([token, person, key, password].iter().all(|secret| !holds(path, secret)), "{}", path.display());
    }
}

#[test]
fn a_model_of_the_hub_is_trained_and_scored() {
    let workspace = Workspace::new();
    let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(workspace.path("model"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let hub = FakeHub::with_model("owner/tiny", &files);
    let online = [("HF_ENDPOINT", hub.endpoint.as_str())];
    let eval = |model| ["eval", "--tasks", "piqa", "--data-dir", ".", "--json", "--model", model];
    let fetched = accuracy(&workspace.call_with(&online, &eval("owner/tiny")));
    assert_eq!(fetched, accuracy(&workspace.call(&eval("model"))));
    hub.requests();
    let lora = ["train", "config.yaml", "model=owner/tiny", "adapter=lora"];
    let trained = workspace.call_with(&online, &lora);
    assert!(trained.succeeded(), "{}", trained.stderr());
    assert_eq!(hub.requests(), Vec::<String>::new());
    let adapter = std::fs::read_to_string(workspace.path("run/adapter/adapter_config.json")).unwrap();
    assert!(adapter.contains("\"owner/tiny\""), "{adapter}");
}
