//! What each verb prints when all is well.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::program::Workspace;

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn assert_keys(value: &Value, expected: &[&str]) {
    let found = keys(value);
    for key in expected {
        assert!(found.contains(key), "`{key}` is not among {found:?}");
    }
}

/// The log-likelihood of each question's first choice, scored into a file of this name.
fn likelihoods(workspace: &Workspace, name: &str, model: &[&str]) -> Vec<f64> {
    let eval = ["eval", "--tasks", "piqa", "--data-dir", ".", "--precision", "f32", "--samples", name];
    workspace.json(&[&eval[..], model].concat());
    let lines = fs::read_to_string(workspace.path(name)).unwrap();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loglikelihoods"][0].as_f64().unwrap();
    lines.lines().map(line).collect()
}

fn continuation(workspace: &Workspace, model: &[&str]) -> Value {
    let generate = ["generate", "--prompt", "the red fox", "--max-new-tokens", "8"];
    workspace.json(&[&generate[..], model].concat())["text"].clone()
}

#[test]
fn every_verb_explains_itself() {
    let workspace = Workspace::new();
    let whole = workspace.call(&["--help"]);
    assert!(whole.succeeded());
    for (verb, option) in [
        ("train", "KEY=VALUE"),
        ("eval", "--tasks"),
        ("generate", "--temperature"),
        ("inspect", "--tensors"),
        ("report", "--watch"),
        ("merge", "--adapter"),
        ("export", "--quantize"),
        ("compare", "--methods"),
        ("sweep", "--alpha"),
    ] {
        assert!(whole.stdout().contains(verb));
        let called = workspace.call(&[verb, "--help"]);
        assert!(called.succeeded(), "{}", called.stderr());
        for part in ["Usage:", option, "--json", "--threads"] {
            assert!(called.stdout().contains(part), "{verb}: no {part}");
        }
    }
    assert!(workspace.call(&["--version"]).stdout().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn train_prints_the_summary_of_its_directory() {
    let workspace = Workspace::new();
    let summary = workspace.json(&["train", "config.yaml"]);
    assert_keys(
        &summary,
        &[
            "run_dir",
            "model_dir",
            "steps",
            "planned_steps",
            "stopped_by",
            "seconds",
            "tokens",
            "units",
            "frozen_units",
            "train_loss",
            "val_loss",
            "flops",
            "peak_memory_bytes",
        ],
    );
    assert_keys(&summary["flops"], &["forward", "input_gradient", "weight_gradient"]);
    assert_eq!((&summary["steps"], &summary["planned_steps"]), (&3.into(), &3.into()));
    assert_eq!((&summary["units"], &summary["frozen_units"]), (&14.into(), &0.into()));
    let saved: Value = serde_json::from_slice(&fs::read(workspace.path("run/summary.json")).unwrap()).unwrap();
    assert_eq!(summary, saved);

    let text = workspace.call(&["train", "config.yaml", "output_dir=plain", "max_steps=1", "logging_steps=1"]);
    assert!(text.succeeded(), "{}", text.stderr());
    assert!(text.stdout().contains("1 of 1") && text.stdout().contains("plain/model"), "{}", text.stdout());
    assert!(text.stderr().contains("step 1/1"), "{}", text.stderr());
}

#[test]
fn report_writes_a_page_drawings_and_tables() {
    let workspace = Workspace::new();
    for run in ["run", "other"] {
        assert!(workspace.call(&["train", "config.yaml", &format!("output_dir={run}")]).succeeded());
        let page = fs::read_to_string(workspace.path(run).join("report.html")).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains(&format!("<h1>{run}</h1>")));
    }
    let result =
        workspace.json(&["report", "run", "other", "--out", "both.html", "--svg", "drawn", "--csv", "told", "--watch"]);
    assert_eq!(result["report"], "both.html");
    for (run, name) in result["runs"].as_array().unwrap().iter().zip(["run", "other"]) {
        assert_eq!((&run["name"], &run["steps"], &run["finished"]), (&name.into(), &3.into(), &true.into()));
    }
    let page = fs::read_to_string(workspace.path("both.html")).unwrap();
    // Both have ended, so that there is nothing to watch.
    assert!(page.contains("<h1>run, other</h1>") && !page.contains("http-equiv"));
    assert!(fs::read_to_string(workspace.path("drawn/loss.svg")).unwrap().contains("</svg>"));
    let losses = fs::read_to_string(workspace.path("told/loss.csv")).unwrap();
    assert_eq!(losses.lines().next().unwrap(), "step,run training,other training,run validation,other validation");
    assert_eq!(losses.lines().count(), 4);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let workspace = Workspace::new();
    let model = |run: &str, threads: &str| {
        let output = format!("output_dir={run}");
        workspace.json(&["train", "config.yaml", &output, "--threads", threads]);
        fs::read(workspace.path(run).join("model/model.safetensors")).unwrap()
    };
    assert!(model("one", "1") == model("three", "3"), "1 and 3 threads give different models");
}

#[test]
fn eval_prints_every_task_and_writes_every_question() {
    let workspace = Workspace::new();
    let eval = ["eval", "--model", "model", "--tasks", "piqa", "--data-dir", ".", "--samples", "samples.jsonl"];
    let result = workspace.json(&eval);
    assert_eq!(keys(&result), ["tasks"]);
    let piqa = &result["tasks"]["piqa"];
    assert_keys(piqa, &["acc", "acc_norm", "n"]);
    assert_eq!(piqa["n"], 5);
    let text = fs::read_to_string(workspace.path("samples.jsonl")).unwrap();
    let samples: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(samples.len(), 5);
    for (index, sample) in samples.iter().enumerate() {
        assert_keys(sample, &["task", "index", "loglikelihoods", "target", "acc", "acc_norm"]);
        assert_eq!((&sample["index"], &sample["target"]), (&index.into(), &(index % 2).into()));
        let likelihoods: Vec<f64> = serde_json::from_value(sample["loglikelihoods"].clone()).unwrap();
        assert_eq!(sample["acc"], u8::from(likelihoods[index % 2] > likelihoods[1 - index % 2]));
    }
    let mean = samples.iter().map(|sample| sample["acc"].as_f64().unwrap()).sum::<f64>() / 5.0;
    assert_eq!(piqa["acc"], mean);

    let limited = workspace.json(&["eval", "--model", "model", "--tasks", "piqa", "--data-dir", ".", "--limit", "2"]);
    assert_eq!(limited["tasks"]["piqa"]["n"], 2);
}

#[test]
fn an_adapter_beside_its_base_and_folded_into_it_are_one_model() {
    let workspace = Workspace::new();
    let summary =
        workspace.json(&["train", "config.yaml", "adapter=lora", "lora_r=4", "max_steps=12", "val_set_size=0"]);
    assert_eq!(summary["model_dir"], "run/adapter");
    let merge = ["merge", "--model", "model", "--adapter", "run/adapter", "--output-dir", "merged", "--dtype", "f32"];
    assert_eq!(workspace.json(&merge)["dtype"], "f32");
    assert!(!workspace.call(&merge).succeeded(), "overwritten");
    let scores = |name: &str, model: &[&str]| likelihoods(&workspace, name, model);
    let beside = scores("beside.jsonl", &["--model", "model", "--adapter", "run/adapter"]);
    let merged = scores("merged.jsonl", &["--model", "merged"]);
    let base = scores("base.jsonl", &["--model", "model"]);
    for ((beside, merged), base) in beside.iter().zip(&merged).zip(&base) {
        assert!((beside - merged).abs() < 1e-4 * beside.abs(), "{beside} {merged}");
        assert!((beside - base).abs() > 1e-2 * beside.abs(), "{beside} {base}");
    }
    let text = |model: &[&str]| continuation(&workspace, model);
    assert_eq!(text(&["--model", "model", "--adapter", "run/adapter"]), text(&["--model", "merged"]));
    // A run, or its adapter, which names its base, stands for both.
    for (source, name) in [("run", "run.jsonl"), ("run/adapter", "adapter.jsonl")] {
        assert_eq!(scores(name, &["--model", source]), beside);
        assert_eq!(text(&["--model", source]), text(&["--model", "merged"]));
    }
}

#[test]
fn an_exported_model_says_what_the_original_says() {
    let workspace = Workspace::new();
    let export = ["export", "model", "--outtype", "f32", "--quantize", "Q8_0", "--name", "tiny"];
    let files = workspace.json(&export)["files"].clone();
    assert_eq!(files[0], serde_json::json!({ "type": "F32", "path": "model/gguf/tiny-F32.gguf" }));
    assert_eq!(files[1]["type"], "Q8_0");
    assert!(fs::read_to_string(workspace.path("model/gguf/Modelfile")).unwrap().starts_with("FROM ./tiny-F32.gguf\n"));
    let again = workspace.call(&export);
    assert!(!again.succeeded() && again.stderr().contains("already exists"), "{}", again.stderr());
    let text = |model: &str| continuation(&workspace, &["--model", model]);
    assert_eq!(text("model/gguf/tiny-F32.gguf"), text("model"));

    workspace.json(&["train", "config.yaml", "adapter=lora", "lora_r=4", "max_steps=12", "val_set_size=0"]);
    workspace.json(&["export", "run", "--outtype", "f32", "--name", "tiny"]);
    let beside = continuation(&workspace, &["--model", "model", "--adapter", "run/adapter"]);
    assert_eq!(text("run/gguf/tiny-F32.gguf"), beside);
    let lora = workspace.json(&["export", "run", "--lora", "--name", "tiny"]);
    assert_eq!(lora["files"][0]["path"], "run/gguf/tiny-lora-F16.gguf");
    assert!(!workspace.call(&["export", "model", "--lora"]).succeeded());
    assert!(workspace.call(&["export", "model", "--quantize", "Q3_K_M"]).stderr().contains("Q4_K_M"));
}

#[test]
fn an_adapter_on_a_base_in_4_bits_is_used_beside_it_and_folded_into_it() {
    let workspace = Workspace::new();
    let train = ["train", "config.yaml", "adapter=lora", "lora_r=4", "load_in_4bit=true", "max_steps=12"];
    workspace.json(&train);
    let folded = |name: &str, options: &[&str]| {
        let merge = ["merge", "--model", "model", "--adapter", "run/adapter", "--output-dir", name, "--dtype", "f32"];
        workspace.json(&[&merge[..], options].concat());
    };
    folded("merged", &["--load-in-4bit"]);
    folded("apart", &[]);
    let scores = |name: &str, model: &[&str]| likelihoods(&workspace, name, model);
    let packed = ["--model", "model", "--adapter", "run/adapter", "--load-in-4bit"];
    let beside = scores("beside.jsonl", &packed);
    let (merged, apart) =
        (scores("merged.jsonl", &["--model", "merged"]), scores("apart.jsonl", &["--model", "apart"]));
    for ((beside, merged), apart) in beside.iter().zip(&merged).zip(&apart) {
        assert!((beside - merged).abs() < 1e-4 * beside.abs(), "{beside} {merged}");
        assert!((beside - apart).abs() > 1e-4 * beside.abs(), "{beside} {apart}");
    }
    let text = |model: &[&str]| continuation(&workspace, model);
    assert_eq!(text(&packed), text(&["--model", "merged"]));
}

#[test]
fn quantised_weights_that_are_decoded_are_told() {
    let workspace = Workspace::new();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(crate::tiny_checkpoint::fixture("nf4/llama").join(name), workspace.path("model").join(name)).unwrap();
    }
    let log = |name: &str, options: &[&str]| {
        let out = format!("output_dir={name}");
        let called = workspace.call(&[&["train", "config.yaml", &out][..], options].concat());
        assert!(called.succeeded(), "{}", called.stderr());
        called.stderr()
    };
    assert!(log("full", &[]).contains("in NF4 are decoded to f32, in which alone they can train"));
    assert!(log("lora", &["adapter=lora"]).contains("load_in_4bit: true"));
    assert!(!log("packed", &["adapter=lora", "load_in_4bit=true"]).contains("decoded"));
    let merge = ["merge", "--model", "model", "--adapter", "packed/adapter", "--output-dir", "merged"];
    assert!(workspace.call(&merge).stdout().contains("dense weights in bf16 decoded from NF4"));
    let found = workspace.json(&["inspect", "model"]);
    assert_eq!(found["types"]["NF4"]["tensors"], 14);
    assert!(found["lora_4bit_memory"]["weights"].as_u64() < found["lora_memory"]["weights"].as_u64());

    // The merged matrices in 4 bits again, in files of a few tensors each.
    let merge = |name: &'static str, options: &[&str]| {
        let merge = ["merge", "--model", "model", "--adapter", "packed/adapter", "--output-dir", name];
        workspace.json(&[&merge[..], options].concat())
    };
    assert_eq!(merge("again", &["--quantize", "nf4", "--max-shard-size", "20kB"])["quantize"], "nf4");
    assert!(workspace.path("again/model.safetensors.index.json").is_file());
    assert_eq!(workspace.json(&["inspect", "again"])["types"]["NF4"]["tensors"], 14);
    merge("dense", &["--dtype", "f32"]);
    let scores = |name: &str| likelihoods(&workspace, &format!("{name}.jsonl"), &["--model", name]);
    for (again, dense) in scores("again").iter().zip(scores("dense")) {
        assert!((again - dense).abs() < 0.02 * dense.abs(), "{again} {dense}");
    }
    let files = &merge("file", &["--quantize", "Q8_0"])["files"];
    assert_eq!(files[0], "file/file-Q8_0.gguf");
    assert_eq!(workspace.json(&["inspect", "file"])["model_type"], "llama");
    let wrong = ["merge", "--model", "model", "--adapter", "a", "--output-dir", "b", "--quantize", "Q3"];
    assert!(workspace.call(&wrong).stderr().contains("there is no type Q3"));
}

#[test]
fn generate_repeats_itself() {
    let workspace = Workspace::new();
    let prompt = ["generate", "--model", "model", "--prompt", "the red fox", "--max-new-tokens", "8"];
    let greedy = workspace.json(&prompt);
    assert_keys(&greedy, &["prompt", "prompt_tokens", "text", "tokens", "finished"]);
    assert_eq!((&greedy["prompt"], &greedy["prompt_tokens"]), (&"the red fox".into(), &11.into()));
    assert!(greedy["tokens"].as_array().unwrap().len() <= 8);
    assert_eq!(workspace.json(&prompt), greedy);
    let drawn =
        |seed| workspace.json(&[&prompt[..], &["--temperature", "3", "--top-p", "0.99", "--seed", seed][..]].concat());
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    // As text: the continuation and a new line.
    let text = workspace.call(&prompt);
    assert_eq!(text.stdout(), format!("{}\n", greedy["text"].as_str().unwrap()));
}

#[test]
fn a_dry_run_needs_no_weights_and_tells_what_the_run_would_be() {
    let workspace = Workspace::new();
    let dry = ["train", "config.yaml", "--dry-run"];
    let plan = workspace.json(&dry);
    assert_keys(&plan, &["parameters", "samples", "tokens", "largest_batch_tokens", "precision", "model_type", "disk"]);
    assert!(workspace.call(&dry).stdout().contains("in the largest micro-batch"));
    fs::rename(workspace.path("model/model.safetensors"), workspace.path("kept")).unwrap();
    let mut without = workspace.json(&dry);
    without["available_memory"] = plan["available_memory"].clone();
    without["disk"]["available"] = plan["disk"]["available"].clone();
    assert_eq!(without, plan);
    assert!(!workspace.path("run").exists());

    fs::rename(workspace.path("kept"), workspace.path("model/model.safetensors")).unwrap();
    let summary = workspace.json(&["train", "config.yaml"]);
    assert_eq!((&plan["planned_steps"], &plan["units"]), (&summary["planned_steps"], &summary["units"]));
    let environment: Value =
        serde_json::from_slice(&fs::read(workspace.path("run/environment.json")).unwrap()).unwrap();
    assert_eq!(environment["planned_memory_bytes"], plan["memory"]["peak"]);
    assert_eq!(environment["parameters"], plan["parameters"]);
    assert!(!workspace.call(&dry).succeeded(), "the directory is in use");
}

#[test]
fn a_timed_dry_run_adds_up_steps_and_validations() {
    let workspace = Workspace::new();
    let options = ["train", "config.yaml", "--dry-run", "max_steps=9", "eval_steps=2"];
    assert!(workspace.json(&options).get("time").is_none());
    let plan = workspace.json(&[&options[..], &["--time"]].concat());
    let time = |key: &str| plan["time"][key].as_f64().unwrap();
    assert!(time("step_seconds") > 0.0 && time("validation_seconds") > 0.0, "{plan}");
    // After steps 2, 4, 6 and 8, and at the end.
    assert_eq!(plan["time"]["validations"], 5);
    let seconds = 9.0 * time("step_seconds") + 5.0 * time("validation_seconds");
    assert!((time("seconds") - seconds).abs() < 1e-9 * seconds, "{plan}");
    assert_eq!(plan["time"]["evaluations"], 0);
    let asked = workspace.json(&[&options[..], &["--time", "generate_samples=1"]].concat());
    let time_asked = |key: &str| asked["time"][key].as_f64().unwrap();
    assert_eq!(asked["time"]["evaluations"], 5);
    assert!(time_asked("evaluation_seconds") > 0.0, "{asked}");
    let between = time_asked("validation_seconds") + time_asked("evaluation_seconds");
    let seconds = 9.0 * time_asked("step_seconds") + 5.0 * between;
    assert!((time_asked("seconds") - seconds).abs() < 1e-9 * seconds, "{asked}");
    // 10 samples in steps of 2.
    let tokens = plan["tokens"].as_f64().unwrap() / 5.0;
    assert!((time("tokens_per_second") * time("step_seconds") - tokens).abs() < 1e-6 * tokens, "{plan}");
    assert!(!workspace.path("run").exists());
    let refused = workspace.call(&["train", "config.yaml", "--time"]);
    assert!(!refused.succeeded() && refused.stderr().contains("--dry-run"), "{}", refused.stderr());
}

#[test]
fn inspect_tells_sizes_tensors_and_memory() {
    let workspace = Workspace::new();
    let found = workspace.json(&["inspect", "model"]);
    assert_keys(&found, &["model_type", "config", "parameters", "types", "tensors", "units"]);
    for plan in ["full_memory", "lora_memory", "lora_4bit_memory"] {
        assert_keys(&found[plan], &["weights", "gradients", "optimizer", "kept", "average", "activations", "peak"]);
    }
    let described = workspace.json(&["inspect", "model/config.json", "--config-only"]);
    for key in ["parameters", "units", "full_memory", "lora_memory"] {
        assert_eq!(described[key], found[key], "{key}");
    }
    let parameters = 96 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32) + 32;
    assert_eq!((&found["parameters"], &found["units"]), (&parameters.into(), &14.into()));
    assert_eq!(found["model_type"], "llama");
    assert_eq!(found["tensors"].as_array().unwrap().len(), 1 + 2 * 9 + 1);
    let q = found["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "model.layers.0.self_attn.q_proj.weight");
    assert_eq!(q.unwrap()["shape"], serde_json::json!([32, 32]));
    let text = workspace.call(&["inspect", "model", "--tensors"]);
    assert!(text.stdout().contains("llama") && text.stdout().contains("model.layers.1.mlp.down_proj.weight"));
}

#[test]
fn the_quickstart_needs_nothing_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("quickstart")).unwrap();
    fs::write(path("quickstart/notes"), "mine").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_grades"))
        .args(["quickstart", "--seeds", "1", "--json"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["out"], "quickstart-2");
    assert_eq!(fs::read_dir(path("quickstart")).unwrap().count(), 1);
    for page in ["report", "comparison"] {
        let page = fs::read_to_string(path(result[page].as_str().unwrap())).unwrap();
        assert!(page.contains("<svg") || page.contains("<table"), "an empty page");
    }
    let rows = result["rows"].as_array().unwrap();
    let accuracy = |method: &str| {
        let row = rows.iter().find(|row| row["method"] == method).unwrap();
        row["accuracy"]["multiple_choice"]["mean"].as_f64().unwrap()
    };
    // 1,000 questions leave ± 0.016 by chance.
    for method in ["none", "validation_loss", "grades"] {
        assert!(accuracy(method) > accuracy("base") + 0.05, "{method} learnt nothing: {rows:?}");
    }
    let row = |method: &str| rows.iter().find(|row| row["method"] == method).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&row("grades")["flops_ratio"]) < 0.5, "{rows:?}");
    // Who trains to the end has learnt the wrong answers.
    let loss = |method: &str| number(&row(method)["val_loss"]["mean"]);
    assert!(loss("none") > loss("grades") && loss("grades") < 0.36, "{rows:?}");
}
