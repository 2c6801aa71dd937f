//! Nothing is lost: runs that are killed at any moment end as runs that were left alone.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::program::Workspace;
use crate::records::logs;
use crate::{pictures, tiny_checkpoint};

/// Begins a call that says nothing.
fn begin(workspace: &Workspace, arguments: &[&str]) -> Child {
    let mut program = Command::new(env!("CARGO_BIN_EXE_grades"));
    program.args(arguments).current_dir(workspace.path(".")).env("HF_HUB_OFFLINE", "1");
    program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn trained(run: &Path) -> Vec<u8> {
    let [model, adapter] = ["model/model.safetensors", "adapter/adapter_model.safetensors"].map(|file| run.join(file));
    fs::read(if model.is_file() { model } else { adapter }).unwrap()
}

#[track_caller]
fn assert_same(run: &Path, whole: &Path) {
    assert!(trained(run) == trained(whole), "another model");
    assert_eq!(logs(run), logs(whole));
}

/// Calls the program again and again, and kills it at random moments, until it has been killed `kills` times; then lets it end.
/// How often it was killed before it would have ended by itself.
fn killed(workspace: &Workspace, arguments: &[&str], kills: usize, most: Duration) {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..kills {
        let mut child = begin(workspace, arguments);
        thread::sleep(most.mul_f64(random.random()));
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(begin(workspace, arguments).wait().unwrap().success());
}

#[test]
fn a_run_that_is_killed_twenty_times_ends_as_one_that_was_left_alone() {
    let workspace = Workspace::new();
    // A checkpoint after every step, so that it is being written at most moments.
    let train = |name: &str| {
        let output = format!("output_dir={name}");
        ["train", "config.yaml", &output, "max_steps=600", "save_steps=1", "save_total_limit=3", "eval_steps=0"]
            .map(str::to_owned)
            .into_iter()
            .chain(["early_stopping={method: grades, trace: true, tau: 1.0e-9}".to_owned()])
            .collect::<Vec<_>>()
    };
    // How long it takes to begin.
    let started = Instant::now();
    assert!(workspace.call(&["train", "config.yaml", "output_dir=short", "max_steps=1"]).succeeded());
    let begun = started.elapsed();
    let whole = train("whole");
    assert!(workspace.call(&whole.iter().map(String::as_str).collect::<Vec<_>>()).succeeded());
    let mut run = train("run");
    run.push("resume_from_checkpoint=auto".to_owned());
    killed(&workspace, &run.iter().map(String::as_str).collect::<Vec<_>>(), 20, 2 * begun);
    assert_same(&workspace.path("run"), &workspace.path("whole"));
}

/// What else a run remembers: states of other optimizers, adapters beside packed weights, averages, the best weights, how far a stream
/// was read; with another number of threads after each kill.
#[test]
fn whatever_a_run_remembers_is_there_after_a_kill() {
    let workspace = Workspace::new();
    let started = Instant::now();
    assert!(workspace.call(&["train", "config.yaml", "output_dir=short", "max_steps=1"]).succeeded());
    let begun = started.elapsed();
    for (index, options) in [
        &["optimizer=adamw_8bit", "early_stopping={method: grades, alpha: 0.1, tau: {q: 1.0e9, default: 1.0e-9}}"][..],
        &["optimizer=muon", "early_stopping={method: grades, alpha: 0.1, tau: {q: 1.0e9, default: 1.0e-9}}"],
        &[
            "streaming=true",
            "val_set_size=0",
            "shuffle_buffer_size=7",
            "sample_packing=true",
            "early_stopping={method: grades, tau: 1.0e-9}",
        ],
        &["optimizer=sgd", "learning_rate=0.1", "early_stopping={method: grades, tau: 1.0e-9}"],
        &["optimizer=lion", "early_stopping=none", "weight_average={kind: polynomial}"],
        &["adapter=lora", "lora_r=4", "load_in_4bit=true", "early_stopping={method: grades, tau: auto}"],
        &[
            "sample_packing=true",
            "gradient_accumulation_steps=2",
            "early_stopping={method: validation_loss, patience: 1000}",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let train = |name: &str, threads: &str| {
            let output = format!("output_dir={name}-{index}");
            [
                "train",
                "config.yaml",
                &output,
                "--threads",
                threads,
                "max_steps=150",
                "save_steps=2",
                "save_total_limit=2",
            ]
            .map(str::to_owned)
            .into_iter()
            .chain(options.iter().map(|option| (*option).to_owned()))
            .collect::<Vec<_>>()
        };
        let begin =
            |arguments: Vec<String>| begin(&workspace, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(begin(train("whole", "1")).wait().unwrap().success(), "{options:?}");
        let mut random = ChaCha8Rng::seed_from_u64(index as u64);
        let resumed = |threads| begin([train("run", threads), vec!["resume_from_checkpoint=auto".to_owned()]].concat());
        for threads in ["2", "3"] {
            let mut child = resumed(threads);
            thread::sleep((2 * begun).mul_f64(random.random()));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(resumed("1").wait().unwrap().success(), "{options:?}");
        let [run, whole] = ["run", "whole"].map(|name| workspace.path(&format!("{name}-{index}")));
        assert_same(&run, &whole);
    }
}

/// Encoded samples and what is kept of pictures: a writer that is killed leaves nothing that others take for whole.
#[test]
fn caches_whose_writers_are_killed_hold_nothing_that_is_not_whole() {
    let workspace = Workspace::new();
    tiny_checkpoint::write_sentences(&workspace.path("data.jsonl"), 20_000);
    let encode = ["preprocess", "config.yaml", "dataset_prepared_path=prepared"];
    let started = Instant::now();
    assert!(workspace.call(&["preprocess", "config.yaml", "dataset_prepared_path=whole"]).succeeded());
    let whole = started.elapsed();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(workspace.path(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    for _ in 0..10 {
        let mut child = begin(&workspace, &encode);
        thread::sleep(whole.mul_f64(random.random()));
        child.kill().unwrap();
        child.wait().unwrap();
        let kept = names("prepared");
        let whole = |name: &String| grades_fs::verify(&workspace.path("prepared").join(name)).is_ok();
        assert!(kept.iter().filter(|name| !name.starts_with('.')).all(whole), "{kept:?}");
    }
    assert!(workspace.call(&encode).succeeded());
    // Nor is what was half written still there.
    let kept = names("prepared");
    assert!(kept.len() == 1 && kept == names("whole"), "{kept:?}");
    for file in ["tokens.bin", "index.bin"] {
        let [found, whole] =
            ["prepared", "whole"].map(|folder| fs::read(workspace.path(folder).join(&kept[0]).join(file)).unwrap());
        assert!(found == whole, "{file}");
    }

    pictures::config(&workspace);
    let train = |output: &'static str, cache: &'static str| {
        ["train", "seen.yaml", output, "freeze_vision_tower=true", "vision_cache=disk", cache, "max_steps=2"]
    };
    let started = Instant::now();
    assert!(workspace.call(&train("output_dir=left", "vision_cache_dir=left-cache")).succeeded());
    let whole = started.elapsed();
    for output in ["output_dir=a", "output_dir=b", "output_dir=c", "output_dir=d"] {
        let mut child = begin(&workspace, &train(output, "vision_cache_dir=cache"));
        thread::sleep(whole.mul_f64(random.random()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(workspace.call(&train("output_dir=end", "vision_cache_dir=cache")).succeeded());
    // What was computed and what was found differ, and are counted.
    assert!(trained(&workspace.path("end")) == trained(&workspace.path("left")), "another model");
}

#[test]
fn a_comparison_that_is_killed_ends_as_one_that_was_left_alone() {
    let workspace = Workspace::new();
    let compare = |out: &'static str| {
        [
            "compare",
            "config.yaml",
            "--methods",
            "none,grades",
            "--seeds",
            "1",
            "--out",
            out,
            "max_steps=100",
            "save_steps=1",
        ]
    };
    let started = Instant::now();
    assert!(workspace.call(&compare("whole")).succeeded());
    killed(&workspace, &compare("killed"), 5, started.elapsed() / 4);
    for entry in fs::read_dir(workspace.path("whole")).unwrap() {
        let name = entry.unwrap().file_name();
        // A run that was killed before its first checkpoint has another directory with a number.
        let newest = |out: &str| {
            let (folder, name) = (workspace.path(out), name.to_string_lossy().into_owned());
            let numbered =
                (2..9).rev().map(|n| folder.join(format!("{name}.{n}"))).find(|run| run.join("summary.json").exists());
            numbered.unwrap_or_else(|| folder.join(name))
        };
        if newest("whole").join("summary.json").exists() {
            assert_same(&newest("killed"), &newest("whole"));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_with_a_checkpoint_and_the_status_of_shells() {
    let workspace = Workspace::new();
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let output = format!("output_dir={signal}");
        let arguments = ["train", "config.yaml", &output, "max_steps=100000", "early_stopping=none"];
        let mut child = begin(&workspace, &arguments);
        let metrics = workspace.path(signal).join("metrics.jsonl");
        while fs::metadata(&metrics).map_or(0, |metrics| metrics.len()) == 0 {
            assert!(child.try_wait().unwrap().is_none());
            thread::sleep(Duration::from_millis(5));
        }
        let tell = |signal: &str| Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        // A closed terminal is none of them.
        assert!(tell("HUP").success());
        thread::sleep(Duration::from_millis(50));
        assert!(tell(signal).success());
        assert_eq!(child.wait().unwrap().code(), Some(status));
        let lines = logs(&workspace.path(signal));
        let step = lines.iter().filter_map(|line| line["step"].as_u64()).max().unwrap();
        assert!(workspace.path(signal).join(format!("checkpoints/step-{step:06}/checksums.txt")).is_file());
    }
}
