//! Which checkpoints are written, which of them stay, and runs that end with the best.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use grades_report::record::Summary;
use grades_train::train::{Interrupt, run_until};

use crate::interruptions::checkpoints;
use crate::runs::{Run, Workspace, exclusive, weights};

/// The rate rises until the model is worse than before: the lowest validation loss is that of the first checkpoint.
const RISING: [&str; 6] =
    ["max_steps=12", "learning_rate=1.0", "warmup_steps=12", "val_set_size=3", "save_steps=2", "eval_steps=4"];
const BEST: &str = "load_best_model_at_end=true";

fn with<'a>(options: &[&'a str]) -> Vec<&'a str> {
    [&RISING[..], options].concat()
}

/// The validation losses of a run, by step.
fn val_losses(run: &Run) -> BTreeMap<usize, f64> {
    let of_line = |line: &serde_json::Value| Some((line["step"].as_u64()? as usize, line["val_loss"].as_f64()?));
    run.metrics().iter().filter_map(of_line).collect()
}

/// The step of the lowest of those losses at checkpoints.
fn lowest(losses: &BTreeMap<usize, f64>) -> usize {
    let best = losses.iter().filter(|(step, _)| **step < 12).min_by(|a, b| a.1.total_cmp(b.1));
    *best.unwrap().0
}

/// The values that a checkpoint would go on from, one after the other as they lie in the file, by name.
fn values(run: &Path, step: usize) -> BTreeMap<String, Vec<f32>> {
    weights(&run.join(format!("checkpoints/step-{step:06}/weights.safetensors")))
}

fn said(run: &Run) -> String {
    let end = run.events().into_iter().find(|event| event["event"] == "best_model").unwrap();
    end["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_run_whose_validation_loss_rises_ends_with_its_best_checkpoint() {
    let workspace = Workspace::new();
    let plain = workspace.train("plain", &with(&[]));
    let run = workspace.train("run", &with(&[BEST]));
    // Every checkpoint is validated, and the steps are those of a run that ends with its last weights.
    let losses = val_losses(&run);
    assert_eq!(losses.keys().copied().collect::<Vec<_>>(), [2, 4, 6, 8, 10, 12]);
    assert_eq!(val_losses(&plain).keys().copied().collect::<Vec<_>>(), [4, 8, 12]);
    assert_eq!(run.metric("/loss"), plain.metric("/loss"));
    let best = lowest(&losses);
    assert!(best < 10 && losses[&best] < losses[&10] && losses[&best] < losses[&12], "{losses:?}");
    assert_eq!(run.weights(), values(&run.path, best));
    assert_ne!(run.weights(), plain.weights());
    assert_eq!((run.summary.best_step, run.summary.val_loss), (Some(best), Some(losses[&best])));
    assert_eq!(plain.summary.best_step, None);
    assert!(said(&run).contains("best checkpoint") && said(&run).contains(&format!("step {best}")), "{}", said(&run));
}

#[test]
fn a_run_that_is_interrupted_ends_with_the_same_checkpoint() {
    let workspace = Workspace::new();
    let options = with(&[BEST, "save_total_limit=1"]);
    let whole = workspace.train("whole", &options);
    let resumed = with(&[BEST, "save_total_limit=1", "resume_from_checkpoint=auto"]);
    // It is interrupted after one step, again and again; the checkpoints of that are no candidates.
    let mut interrupted = 0;
    let summary = loop {
        let interrupt = Interrupt::default();
        interrupt.signal().store(15, std::sync::atomic::Ordering::SeqCst);
        let config = workspace.config("run", &resumed);
        let _counters = exclusive();
        match run_until(&config, false, &interrupt) {
            Ok(summary) => break summary,
            Err(_) => interrupted += 1,
        }
    };
    assert_eq!(interrupted, 11);
    let same = |summary: &Summary| {
        assert_eq!(
            (summary.best_step, summary.val_loss.map(f64::to_bits)),
            (whole.summary.best_step, whole.summary.val_loss.map(f64::to_bits))
        );
        assert!(weights(&summary.model_dir) == whole.weights());
    };
    same(&summary);
    // Another run that goes on from one of its checkpoints takes the best along.
    let all = workspace.train("all", &with(&[BEST]));
    let best = all.summary.best_step.unwrap();
    assert_eq!(best, 2);
    for step in [best, 6, 10] {
        let name = format!("from-{step}");
        let checkpoint = all.path.join(format!("checkpoints/step-{step:06}"));
        let resume = format!("resume_from_checkpoint={}", checkpoint.display());
        let forked = workspace.train(&name, &with(&[BEST, &resume]));
        same(&forked.summary);
        assert!(forked.path.join(format!("checkpoints/step-{best:06}")).is_dir());
    }
    // Where it is gone, nothing begins.
    fs::remove_dir_all(all.path.join(format!("checkpoints/step-{best:06}"))).unwrap();
    let resume = format!("resume_from_checkpoint={}", all.path.join("checkpoints/step-000010").display());
    let error = workspace.attempt("lacking", &with(&[BEST, &resume])).unwrap_err().to_string();
    assert!(error.contains(&format!("step-{best:06}")), "{error}");
    assert!(!workspace.path("lacking").exists());
    let resume = format!("resume_from_checkpoint={}", all.path.join("checkpoints/step-000010").display());
    let error = workspace.attempt("other", &with(&[BEST, &resume, "metric_for_best_model=train_loss"])).unwrap_err();
    assert!(error.to_string().contains("chosen by eval_loss"), "{error}");
}

#[test]
fn a_limit_never_takes_the_best_nor_the_last() {
    let workspace = Workspace::new();
    let all = workspace.train("all", &with(&[BEST]));
    let best = all.summary.best_step.unwrap();
    let named = |steps: &[usize]| steps.iter().map(|step| format!("step-{step:06}")).collect::<Vec<_>>();
    for (limit, stay) in [(1, vec![best, 10]), (2, vec![best, 10]), (3, vec![best, 8, 10])] {
        let run = workspace.train(&format!("run-{limit}"), &with(&[BEST, &format!("save_total_limit={limit}")]));
        assert_eq!(checkpoints(&run.path), named(&stay), "{limit}");
        assert!(run.weights() == all.weights());
    }
    // Also where the run does not end with it, but knows which it is.
    let run = workspace.train("known", &with(&["metric_for_best_model=loss", "save_total_limit=1"]));
    assert_eq!(checkpoints(&run.path), named(&[best, 10]));
    assert_eq!(run.summary.best_step, None);
}

#[test]
fn checkpoints_are_written_by_epoch_where_a_validation_is_the_best_or_never() {
    let workspace = Workspace::new();
    let train = |name: &str, options: &[&str]| {
        workspace.train(
            name,
            &[&["max_steps=12", "learning_rate=0.3", "warmup_steps=12", "val_set_size=3"], options].concat(),
        )
    };
    let epochs = train("epochs", &["save_strategy=epoch"]);
    assert_eq!(checkpoints(&epochs.path), ["step-000005", "step-000010"]);
    let best = train("best", &["save_strategy=best", "eval_steps=2"]);
    let losses = val_losses(&best);
    let mut lowest = f64::INFINITY;
    let improved = losses.iter().filter(|(step, loss)| {
        let better = **loss < lowest && **step < 12;
        lowest = lowest.min(**loss);
        better
    });
    let improved: Vec<String> = improved.map(|(step, _)| format!("step-{step:06}")).collect();
    assert!(improved.len() > 1 && improved.len() < losses.len(), "{losses:?}");
    assert_eq!(checkpoints(&best.path), improved);
    let greatest = train("greatest", &["save_strategy=best", "eval_steps=2", "greater_is_better=true"]);
    assert_eq!(checkpoints(&greatest.path)[0], "step-000002");
    assert_ne!(checkpoints(&greatest.path), improved);
    assert!(!train("none", &["save_strategy=no"]).path.join("checkpoints").exists());
}

#[test]
fn the_training_loss_may_judge_and_last_weights_that_are_better_stay() {
    let workspace = Workspace::new();
    let options = ["max_steps=12", "save_steps=4", BEST, "metric_for_best_model=train_loss"];
    let falls = workspace.train("falls", &[&options[..], &["learning_rate=0.01"]].concat());
    assert_eq!(falls.summary.best_step, None);
    assert!(said(&falls).contains("last weights"), "{}", said(&falls));
    let rises =
        workspace.train("rises", &[&options[..], &["learning_rate=3.0", "warmup_steps=12", "val_set_size=3"]].concat());
    let losses = rises.metric("/loss");
    let mean = |steps: std::ops::Range<usize>| losses[steps.clone()].iter().sum::<f64>() / steps.len() as f64;
    let [first, second, last] = [mean(0..4), mean(4..8), mean(8..12)];
    assert!(first.min(second) < last, "{losses:?}");
    let best = if first <= second { 4 } else { 8 };
    assert_eq!(rises.summary.best_step, Some(best));
    assert!(said(&rises).contains(&format!("train_loss is {:.4}", first.min(second))), "{}", said(&rises));
    assert_eq!(rises.weights(), values(&rises.path, best));
    // The validation loss is that of what the run ends with.
    let plain = workspace.train(
        "plain",
        &["max_steps=12", "learning_rate=3.0", "warmup_steps=12", "val_set_size=3", &format!("eval_steps={best}")],
    );
    assert_eq!(rises.summary.val_loss, Some(val_losses(&plain)[&best]));
}

#[test]
fn a_checkpoint_of_the_model_alone_is_a_model() {
    let workspace = Workspace::new();
    for adapter in [None, Some("adapter=lora")] {
        let folder = |name: &str| format!("{name}-{}", adapter.is_some());
        let own: Vec<&str> = [BEST].into_iter().chain(adapter).collect();
        let whole = workspace.train(&folder("whole"), &with(&own));
        let alone = workspace.train(&folder("alone"), &with(&[&own[..], &["save_only_model=true"]].concat()));
        let left = |run: &Run| match adapter {
            None => run.weights(),
            Some(_) => run.weights_of("adapter/adapter_model.safetensors"),
        };
        assert!(left(&alone) == left(&whole));
        assert_eq!(alone.summary.best_step, whole.summary.best_step);
        let checkpoint = alone.path.join("checkpoints/step-000010");
        let (of_model, config) = match adapter {
            None => (checkpoint.clone(), "config.json"),
            Some(_) => (checkpoint.join("adapter_model.safetensors"), "adapter_config.json"),
        };
        assert_eq!(weights(&of_model), values(&whole.path, 10));
        assert!(checkpoint.join(config).is_file());
        assert_eq!(checkpoint.join("tokenizer.json").is_file(), adapter.is_none());
        let resume = format!("resume_from_checkpoint={}", checkpoint.display());
        let error = workspace.attempt("refused", &with(&[&resume])).unwrap_err().to_string();
        assert!(error.contains("save_only_model"), "{error}");
        assert_eq!(grades_train::train::latest_checkpoint(&alone.path, usize::MAX), None);
    }
    // What a signal leaves is whole.
    let interrupt = Interrupt::default();
    interrupt.signal().store(15, std::sync::atomic::Ordering::SeqCst);
    let options = with(&["save_only_model=true", "resume_from_checkpoint=auto"]);
    {
        let _counters = exclusive();
        run_until(&workspace.config("stopped", &options), false, &interrupt).unwrap_err();
    }
    assert!(grades_train::train::latest_checkpoint(&workspace.path("stopped"), usize::MAX).is_some());
    let plain = workspace.train("plain", &with(&[]));
    assert!(weights(&workspace.attempt("stopped", &options).unwrap().model_dir) == plain.weights());
}
