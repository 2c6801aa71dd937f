//! Very small and very large runs.

use std::fs;

use serde_json::{Value, json};

use crate::runs::Workspace;
use crate::tiny_checkpoint::write_rows;

/// Rows in the place of the workspace's.
fn with_rows(rows: impl Iterator<Item = Value>) -> Workspace {
    let workspace = Workspace::new();
    write_rows(&workspace.path("data.jsonl"), rows);
    workspace
}

/// A model that takes rows of up to `tokens` tokens.
fn with_context(workspace: &Workspace, tokens: usize) {
    let path = workspace.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = tokens.into();
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn one_row_of_one_label_trains() {
    let workspace = with_rows([json!({ "prompt": "a", "completion": "b" })].into_iter());
    let run =
        workspace.train("run", &["micro_batch_size=1", "max_steps=2", "early_stopping={method: grades, tau: auto}"]);
    assert_eq!(run.summary.steps, 2);
    assert!(run.summary.train_loss.is_finite());
}

#[test]
fn rows_without_a_label_are_told() {
    let message = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    let workspace = with_rows([message].into_iter());
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    fs::write(workspace.path("model/chat_template.jinja"), template).unwrap();
    let error = workspace.attempt("run", &["datasets.0.type=messages"]).unwrap_err().to_string();
    assert!(error.contains("data.jsonl"), "{error}");
}

#[test]
fn a_row_of_32768_tokens_trains() {
    const TOKENS: usize = 32_768;
    let workspace =
        with_rows([json!({ "prompt": "the ", "completion": "red fox ".repeat(TOKENS / 8 - 1) })].into_iter());
    with_context(&workspace, TOKENS);
    let length = format!("sequence_len={TOKENS}");
    let run = workspace.train("run", &["micro_batch_size=1", "max_steps=1", &length]);
    assert!(run.summary.tokens > 32_000 && run.summary.tokens <= TOKENS as u64, "{}", run.summary.tokens);
    assert!(run.summary.train_loss.is_finite());
}

#[test]
fn a_hundred_thousand_rows_are_read() {
    let workspace = with_rows((0..100_000).map(|n| json!({ "prompt": format!("the {n} "), "completion": "fox" })));
    let run = workspace.train("run", &["max_steps=1", "num_epochs=1"]);
    assert_eq!(run.json("environment.json")["samples"], 100_000);
}

/// Nothing grows from step to step: what the process holds late in a run is what it held early.
#[test]
fn a_long_run_holds_no_more_at_its_end() {
    let workspace = Workspace::new();
    let steps = std::env::var("GRADES_LONG_RUN").map_or(1_500, |steps| steps.parse().unwrap());
    let length = format!("max_steps={steps}");
    let method = "early_stopping={method: grades, tau: 1.0e-9}";
    let run = workspace
        .train("run", &[&length, method, "val_set_size=4", "eval_steps=100", "save_steps=500", "save_total_limit=1"]);
    let resident = run.metric("/resident_bytes");
    let most = |steps: &[f64]| steps.iter().copied().fold(0.0, f64::max);
    let (early, late) = (most(&resident[steps / 3..steps / 2]), most(&resident[steps - steps / 6..]));
    // Other tests of this process hold memory, too, so the bound is what a leak of a row a step would exceed.
    assert!(late - early < (64 << 20) as f64, "{early} bytes early, {late} late");
}
