//! What is asked of a model while it trains: answers, benchmarks, their costs, and that the training is what it is without.

use std::fs;

use grades_report::record::{Generated, TaskScores};
use serde_json::Value;

use crate::records::{logs, without_clocks};
use crate::runs::{Run, Workspace, exclusive};

/// Questions of one's own: with choices, and with written answers.
fn with_questions() -> Workspace {
    let workspace = Workspace::new();
    let choices = "{\"question\": \"where do boats lie?\", \"choices\": [\"in a river\", \"in a garden\"], \"answer\": 0}\n\
                   {\"question\": \"where do kites fly?\", \"choices\": [\"in a river\", \"over a roof\"], \"answer\": 1}\n\
                   {\"question\": \"what rang?\", \"choices\": [\"the bell\", \"the fox\"], \"answer\": 0}\n";
    fs::write(workspace.path("choices.jsonl"), choices).unwrap();
    workspace
}

fn generated(run: &Run) -> Vec<Generated> {
    let text = fs::read_to_string(run.path.join("generated.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The steps at which something was asked, with their scores.
fn scores(run: &Run) -> Vec<(u64, TaskScores)> {
    let of = |line: &Value| {
        let scores = serde_json::from_value(line.get("eval_tasks")?.clone()).unwrap();
        Some((line["step"].as_u64().unwrap(), scores))
    };
    run.metrics().iter().filter_map(of).collect()
}

/// Without what only a run that asks has.
fn plain(mut lines: Vec<Value>) -> Vec<Value> {
    lines.retain(|line| line["event"] != "generated" && line["event"] != "checkpoint");
    without_clocks(&mut lines);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for key in ["eval_tasks", "evaluation_seconds", "path"] {
            line.remove(key);
        }
    }
    lines
}

#[test]
fn asking_changes_no_bit_of_the_training_also_after_a_resume() {
    let workspace = with_questions();
    let tasks = format!("eval_tasks=[{}]", workspace.path("choices.jsonl").display());
    let asking = ["generate_samples=3", "generation_max_new_tokens=5", tasks.as_str()];
    for (index, special) in [
        &["early_stopping={method: grades, tau: auto}"][..],
        &[
            "early_stopping={method: grades, alpha: 0.25, companions: follow, tau: {language.0.*: 1.0e9, default: 1.0e-9}}",
            "prefix_cache=memory",
        ],
        &["adapter=lora", "lora_dropout=0.1", "precision=bf16"],
        &["load_best_model_at_end=true", "learning_rate=0.3", "warmup_steps=8"],
    ]
    .into_iter()
    .enumerate()
    {
        let shared = [&["val_set_size=4", "eval_steps=3", "save_steps=3"], special].concat();
        let asks = [&shared[..], &asking].concat();
        let without = workspace.train(&format!("without-{index}"), &shared);
        let with = workspace.train(&format!("with-{index}"), &asks);
        assert!(with.weights_of_end() == without.weights_of_end(), "{special:?}");
        assert_eq!(plain(logs(&with.path)), plain(logs(&without.path)), "{special:?}");
        // The costs of training are those of a run that asks nothing.
        let costs = |run: &Run| {
            let summary = run.summary.clone();
            (summary.flops, summary.validation_flops, summary.monitor_flops, summary.tokens, summary.val_loss)
        };
        assert_eq!(costs(&with), costs(&without));
        assert!(with.summary.evaluation_seconds.unwrap() > 0.0 && with.summary.evaluation_flops.unwrap() > 0);
        assert_eq!((without.summary.evaluation_seconds, without.summary.evaluation_flops), (None, None));
        // From a checkpoint on: the same weights, answers and scores, and costs of all together.
        let checkpoint = with.path.join("checkpoints/step-000003");
        let resume = format!("resume_from_checkpoint={}", checkpoint.display());
        let resumed = workspace.train(&format!("resumed-{index}"), &[&asks[..], &[&resume]].concat());
        assert!(resumed.weights_of_end() == without.weights_of_end(), "{special:?}");
        let later: Vec<Generated> = generated(&with).into_iter().filter(|line| line.step > 3).collect();
        assert!(!later.is_empty() && generated(&resumed) == later, "{special:?}");
        assert_eq!(resumed.summary.eval_tasks, with.summary.eval_tasks);
        assert_eq!(resumed.summary.evaluation_flops, with.summary.evaluation_flops);
    }
}

#[test]
fn a_run_tells_what_was_asked_after_each_evaluation_and_at_its_end() {
    let workspace = with_questions();
    let file = workspace.path("choices.jsonl");
    let tasks = format!("eval_tasks=[{}]", file.display());
    let run = workspace.train(
        "run",
        &["val_set_size=4", "eval_steps=2", "max_steps=5", "generate_samples=2", "eval_tasks_limit=2", &tasks],
    );
    assert_eq!(scores(&run).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4]);
    for scores in scores(&run).iter().map(|(_, scores)| scores).chain(&run.summary.eval_tasks) {
        let numbers = &scores["choices"];
        assert_eq!(numbers.keys().collect::<Vec<_>>(), ["acc", "acc_norm"]);
        // Of two questions.
        assert!(numbers.values().all(|value| [0.0, 0.5, 1.0].contains(value)), "{numbers:?}");
    }
    let lines = generated(&run);
    let places: Vec<(usize, usize)> = lines.iter().map(|line| (line.step, line.prompt_index)).collect();
    assert_eq!(places, [(2, 0), (2, 1), (4, 0), (4, 1), (5, 0), (5, 1)]);
    // Prompts and references are those of the data.
    let data = fs::read_to_string(workspace.path("data.jsonl")).unwrap();
    let rows: Vec<Value> = data.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let said = |row: &Value, key: &str| row[key].as_str().unwrap().trim().to_owned();
        let is_of = |row: &Value| said(row, "prompt") == line.prompt && said(row, "completion") == line.reference;
        assert!(rows.iter().any(is_of), "{line:?}");
    }
    let events = run.events();
    let told = |event: &&Value| event["event"] == "generated";
    let told: Vec<(u64, u64)> =
        events.iter().filter(told).map(|it| (it["step"].as_u64().unwrap(), it["samples"].as_u64().unwrap())).collect();
    assert_eq!(told, [(2, 2), (4, 2), (5, 2)]);
    let report = fs::read_to_string(run.path.join("report.html")).unwrap();
    assert!(report.contains("<h2>Answers</h2>") && report.contains("Benchmarks"), "no answers, or no benchmarks");
}

/// The answers at the end are those of the model that is saved.
#[test]
fn answers_are_those_of_the_present_model() {
    use grades_models::sampling::{Sampler, SamplingOptions};
    use grades_models::{Inputs, generate};
    use grades_train::config::{ImageBackend, Precision};
    use grades_train::loaded::{Loaded, Loading};

    let workspace = Workspace::new();
    // So much is learnt that answers differ from those before.
    let options =
        ["val_set_size=4", "eval_steps=4", "generate_samples=3", "generation_max_new_tokens=6", "max_steps=24"];
    let run = workspace.train("run", &options);
    let lines = generated(&run);
    let of = |step: usize| lines.iter().filter(|line| line.step == step).collect::<Vec<_>>();
    let answers = |step: usize| of(step).iter().map(|line| line.answer.clone()).collect::<Vec<_>>();
    assert_ne!(answers(4), answers(24));
    let loading = Loading {
        adapter: None,
        fold_adapter: false,
        load_in_4bit: false,
        image_backend: ImageBackend::Auto,
        precision: Precision::F32,
    };
    let _counters = exclusive();
    let loaded = Loaded::open(&run.summary.model_dir, loading).unwrap();
    let limits = generate::Limits { max_new_tokens: 6, stop: loaded.ends(true).unwrap() };
    for line in of(24) {
        let ids = loaded.tokenizer.encode(&line.prompt, true).unwrap();
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        let alone =
            generate::generate(&loaded.model, &loaded.tokenizer, &Inputs::sample(ids), &limits, &mut sampler, |_| {});
        assert_eq!(alone.unwrap().text.trim(), line.answer, "{line:?}");
    }
}

#[test]
fn what_cannot_be_asked_is_told_before_the_training() {
    let workspace = with_questions();
    let file = workspace.path("choices.jsonl");
    let twice = format!("eval_tasks=[{0}, {0}]", file.display());
    let error = workspace.attempt("twice", &[&twice]).unwrap_err().to_string();
    assert!(error.contains("two of the name choices"), "{error}");
    let error = workspace.attempt("nowhere", &["eval_tasks=[nowhere.jsonl]"]).unwrap_err().to_string();
    assert!(error.contains("nowhere.jsonl"), "{error}");
    assert!(!workspace.path("twice").exists() && !workspace.path("nowhere").exists());
    // A choice that is longer than the model reads: the training goes on all the same.
    let long =
        format!("{{\"question\": \"what?\", \"choices\": [\"{}\", \"b\"], \"answer\": 0}}\n", "a river ".repeat(400));
    fs::write(&file, long).unwrap();
    let run = workspace.train("long", &["eval_steps=4", &format!("eval_tasks=[{}]", file.display())]);
    let failed: Vec<Value> = run.events().into_iter().filter(|event| event["event"] == "evaluation_failed").collect();
    assert_eq!(failed.iter().map(|event| event["step"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 8]);
    assert!(failed[0]["reason"].as_str().unwrap().contains("leave the question out"), "{failed:?}");
    assert_eq!((run.summary.steps, &run.summary.eval_tasks), (8, &None));
}
