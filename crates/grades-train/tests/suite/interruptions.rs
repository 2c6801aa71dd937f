//! Runs that are interrupted, damaged, or meet numbers that are none.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use grades_report::record::Summary;
use grades_train::train::{Interrupt, TrainError, run_until};

use crate::records::logs;
use crate::runs::{Workspace, exclusive};

const AUTO: &str = "resume_from_checkpoint=auto";
const OPTIONS: [&str; 4] =
    ["save_steps=2", "optimizer=adamw", "val_set_size=4", "early_stopping={method: grades, trace: true, tau: 1.0e-9}"];

fn model(summary: &Summary) -> Vec<u8> {
    fs::read(summary.model_dir.join("model.safetensors")).unwrap()
}

/// A run that a signal has interrupted after its first step.
fn interrupted(workspace: &Workspace, name: &str, options: &[&str]) -> TrainError {
    let interrupt = Interrupt::default();
    assert!(interrupt.at_once().load(SeqCst));
    interrupt.signal().store(15, SeqCst);
    let config = workspace.config(name, options);
    let _counters = exclusive();
    let error = run_until(&config, false, &interrupt).unwrap_err();
    // During the steps a signal does not end the program at once.
    assert!(!interrupt.at_once().load(SeqCst));
    error
}

pub(crate) fn checkpoints(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_signal_ends_a_run_with_a_checkpoint_from_which_auto_goes_on() {
    let workspace = Workspace::new();
    let whole = workspace.train("whole", &OPTIONS);
    let error = interrupted(&workspace, "run", &OPTIONS);
    let run = workspace.path("run");
    assert!(
        matches!(&error, TrainError::Interrupted { signal: 15, step: 1, checkpoint } if checkpoint.starts_with(&run)),
        "{error}"
    );
    assert!(error.to_string().contains("resume_from_checkpoint=auto"), "{error}");
    assert_eq!(checkpoints(&run), ["step-000001"]);
    // What a process leaves that was killed while it wrote.
    fs::create_dir(run.join("checkpoints/.step-000002.partial-1-0")).unwrap();
    fs::create_dir(run.join("model")).unwrap();
    let metrics = fs::read(run.join("metrics.jsonl")).unwrap();
    fs::write(run.join("metrics.jsonl"), [&metrics[..], br#"{"step":2,"lo"#].concat()).unwrap();
    let options = [&OPTIONS[..], &[AUTO]].concat();
    let summary = workspace.attempt("run", &options).unwrap();
    let (mut seen, expected) = (logs(&run), logs(&whole.path));
    seen.retain(|line| line["event"] != "checkpoint" || line["step"] != 1);
    assert_eq!(seen, expected);
    assert_eq!(model(&summary), model(&whole.summary));
    assert_eq!(checkpoints(&run), ["step-000001", "step-000002", "step-000004", "step-000006"]);
    // It has ended: nothing is done again.
    let before = fs::metadata(run.join("summary.json")).unwrap().modified().unwrap();
    assert_eq!(workspace.attempt("run", &options).unwrap(), summary);
    assert_eq!(fs::metadata(run.join("summary.json")).unwrap().modified().unwrap(), before);
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let workspace = Workspace::new();
    let whole = workspace.train("whole", &OPTIONS);
    let options = [&OPTIONS[..], &[AUTO]].concat();
    // The last one, then all of them.
    for (damaged, goes_on_from) in [(&[6][..], Some(4)), (&[2, 4, 6][..], None)] {
        fs::remove_file(whole.path.join("summary.json")).unwrap();
        for step in damaged {
            let folder = whole.path.join(format!("checkpoints/step-{step:06}"));
            let path = folder.join("weights.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&path, bytes).unwrap();
            let named = format!("resume_from_checkpoint={}", folder.display());
            let error = workspace.attempt("whole", &[&OPTIONS[..], &[&named]].concat()).unwrap_err();
            assert!(matches!(error, TrainError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("weights.safetensors is not what was written"), "{error}");
        }
        assert_eq!(
            grades_train::train::latest_checkpoint(&whole.path, usize::MAX),
            goes_on_from.map(|step| whole.path.join(format!("checkpoints/step-{step:06}")))
        );
        let (expected, bytes) = (logs(&whole.path), model(&whole.summary));
        let summary = workspace.attempt("whole", &options).unwrap();
        assert_eq!(logs(&whole.path), expected);
        assert_eq!(model(&summary), bytes);
    }
}

#[test]
fn auto_begins_a_run_that_is_not_there_and_leaves_other_folders_alone() {
    let workspace = Workspace::new();
    let options = ["max_steps=1", AUTO];
    assert_eq!(workspace.attempt("new", &options).unwrap().steps, 1);
    fs::create_dir(workspace.path("other")).unwrap();
    fs::write(workspace.path("other/notes.txt"), "mine").unwrap();
    let error = workspace.attempt("other", &options).unwrap_err();
    assert!(matches!(error, TrainError::RunExists { .. }), "{error}");
    assert_eq!(fs::read_to_string(workspace.path("other/notes.txt")).unwrap(), "mine");
}

#[cfg(unix)]
#[test]
fn a_directory_has_one_run_at_a_time() {
    let workspace = Workspace::new();
    interrupted(&workspace, "run", &[]);
    let metrics = fs::read(workspace.path("run/metrics.jsonl")).unwrap();
    let other = grades_fs::lock(&workspace.path("run")).unwrap().unwrap();
    let error = workspace.attempt("run", &[AUTO]).unwrap_err();
    assert!(matches!(error, TrainError::InUse { .. }), "{error}");
    assert_eq!(fs::read(workspace.path("run/metrics.jsonl")).unwrap(), metrics);
    drop(other);
    assert_eq!(workspace.attempt("run", &[AUTO]).unwrap().steps, 8);
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_run() {
    let workspace = Workspace::new();
    let whole = workspace.train("whole", &[]);
    interrupted(&workspace, "run", &[]);
    let run = workspace.path("run");
    // A file where their folder should be.
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    fs::write(run.join("checkpoints"), "").unwrap();
    let summary = workspace.attempt("run", &["save_steps=3", AUTO]).unwrap();
    assert_eq!(model(&summary), model(&whole.summary));
    let failed = logs(&run).into_iter().filter(|line| line["event"] == "checkpoint_failed");
    let reasons: Vec<String> = failed.map(|line| line["reason"].to_string()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(
        reasons.iter().all(|reason| reason.contains("step-00000") && reason.contains("training goes on")),
        "{reasons:?}"
    );
}

#[test]
fn the_oldest_checkpoints_go_first() {
    let workspace = Workspace::new();
    let run = workspace.train("run", &["save_steps=1", "save_total_limit=2"]);
    assert_eq!(checkpoints(&run.path), ["step-000006", "step-000007"]);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_where_it_may_be_skipped() {
    let workspace = Workspace::new();
    let options = ["learning_rate=1.0e30", "weight_decay=0.0", "eval_steps=0", "save_steps=1"];
    let error = workspace.attempt("stopped", &options).unwrap_err();
    let TrainError::Nonfinite { step, checkpoint: Some(checkpoint), .. } = &error else { panic!("{error}") };
    let last = step - 1;
    assert!(checkpoint.ends_with(format!("step-{last:06}")), "{error}");
    let run = workspace.train("run", &[&options[..], &["on_nonfinite=skip"]].concat());
    let skipped: Vec<u64> = run
        .events()
        .iter()
        .filter(|line| line["event"] == "step_skipped")
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(skipped, (*step as u64..=8).collect::<Vec<_>>());
    let metrics = run.metrics();
    assert_eq!(metrics.len(), 8);
    assert!(metrics[last..].iter().all(|line| line["loss"].is_null()) && !metrics[last - 1]["loss"].is_null());
    // The weights of the last step that was made.
    let weights =
        |step: usize| fs::read(run.path.join(format!("checkpoints/step-{step:06}/weights.safetensors"))).unwrap();
    assert_eq!(weights(7), weights(last));
    assert!(run.summary.train_loss.is_finite());
}
