//! Calls of this program by itself: each job of a comparison is a process of its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use grades_train::compare::{Job, ScoredModel};
use grades_train::config::{ImageBackend, Precision};
use grades_train::train::Interrupt;
use serde_json::Value;

use crate::{output, signals};

/// What does jobs: it logs what their processes log, and tells the error that they end with.
///
/// Ctrl-C and SIGTERM end the job that is being done, a training run with a checkpoint, and then this program; a second one
/// ends it at once, and the job's process with it, which sees its standard input end.
pub(crate) fn worker(threads: Option<NonZeroUsize>) -> impl FnMut(&Job) -> Result<(), String> {
    let interrupt = signals::interrupt().map_err(|error| error.to_string());
    move |job| {
        let interrupt = interrupt.clone()?;
        interrupt.begin();
        output::log(&format!("  {job}"));
        let mut command = Command::new(program()?);
        command.args(arguments(job)).arg("--end-with-stdin");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        let mut child = command.spawn().map_err(|error| format!("the process cannot be started ({error})"))?;
        let ended = Arc::new(AtomicBool::new(false));
        end_when_heard(interrupt.clone(), child.stdin.take(), Arc::clone(&ended));
        let mut told = None;
        if let Some(lines) = child.stderr.take() {
            // Bytes that are no text are shown as such rather than ending the log.
            for line in BufReader::new(lines).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                match line.strip_prefix("error: ") {
                    Some(error) => told = Some(error.to_owned()),
                    None => output::log(&format!("    {line}")),
                }
            }
        }
        let status = child.wait().map_err(|error| format!("the process cannot be waited for ({error})"))?;
        ended.store(true, SeqCst);
        if let Some(signal) = interrupt.heard() {
            output::log("interrupted; the same call goes on");
            std::process::exit(signals::status(signal));
        }
        interrupt.end();
        if status.success() {
            return Ok(());
        }
        Err(told.unwrap_or_else(|| format!("the process ended with {status}")))
    }
}

/// Closes a process's standard input when a signal is heard, which it takes for its end.
fn end_when_heard(interrupt: Interrupt, stdin: Option<ChildStdin>, ended: Arc<AtomicBool>) {
    thread::spawn(move || {
        while interrupt.heard().is_none() && !ended.load(SeqCst) {
            thread::sleep(Duration::from_millis(50));
        }
        drop(stdin);
    });
}

/// This program, on Linux also where its file has been replaced since it began: all runs of a comparison are of one build.
fn program() -> Result<PathBuf, String> {
    let itself = Path::new("/proc/self/exe");
    if itself.exists() {
        return Ok(itself.to_owned());
    }
    std::env::current_exe().map_err(|error| format!("this program cannot be found ({error})"))
}

/// The arguments after `grades` that do a job.
fn arguments(job: &Job) -> Vec<OsString> {
    match job {
        Job::Train { config, output_dir, resume_from, .. } => {
            // Paths of options are quoted as YAML.
            let option = |key: &str, path: &Path| format!("{key}={}", Value::from(path.to_string_lossy())).into();
            let mut arguments = vec!["train".into(), config.into(), option("output_dir", output_dir)];
            arguments.extend(resume_from.iter().map(|checkpoint| option("resume_from_checkpoint", checkpoint)));
            arguments
        }
        Job::Eval { model, tasks, data_dir, image_folder, limit, samples, .. } => {
            let ScoredModel { model, adapter, load_in_4bit, image_backend, precision } = model;
            let precision = match precision {
                Precision::Auto => "auto",
                Precision::F32 => "f32",
                Precision::Bf16 => "bf16",
            };
            let mut arguments: Vec<OsString> = vec!["eval".into()];
            let mut option = |key: &str, value: OsString| arguments.extend([key.into(), value]);
            option("--model", model.into());
            if let Some(adapter) = adapter {
                option("--adapter", adapter.into());
            }
            option("--tasks", tasks.join(",").into());
            if let Some(data_dir) = data_dir {
                option("--data-dir", data_dir.into());
            }
            if let Some(image_folder) = image_folder {
                option("--image-folder", image_folder.into());
            }
            option("--precision", precision.into());
            if *image_backend != ImageBackend::Auto {
                option("--image-backend", image_backend.to_string().into());
            }
            option("--samples", samples.into());
            if let Some(limit) = limit {
                option("--limit", limit.to_string().into());
            }
            if *load_in_4bit {
                arguments.push("--load-in-4bit".into());
            }
            arguments
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// The arguments of a job, which the program takes.
    fn taken(job: &Job) -> Vec<String> {
        let arguments = arguments(job);
        let all = [OsString::from("grades")].into_iter().chain(arguments.iter().cloned());
        assert!(crate::Cli::try_parse_from(all).is_ok(), "{arguments:?}");
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_run_is_trained_in_its_own_directory() {
        let job = |resume_from| Job::Train {
            name: "a".into(),
            config: "out/configs/a.yaml".into(),
            output_dir: "out/a: \"b\"".into(),
            resume_from,
        };
        let start = ["train", "out/configs/a.yaml", r#"output_dir="out/a: \"b\"""#];
        assert_eq!(taken(&job(None)), start);
        let checkpoint = r#"resume_from_checkpoint="t/checkpoints/step-000010""#;
        assert_eq!(taken(&job(Some("t/checkpoints/step-000010".into()))), [&start[..], &[checkpoint]].concat());
    }

    #[test]
    fn a_model_is_scored_as_it_was_trained() {
        let model = ScoredModel {
            model: "m".into(),
            adapter: None,
            load_in_4bit: false,
            image_backend: ImageBackend::Auto,
            precision: Precision::Auto,
        };
        let plain = Job::Eval {
            name: "a".into(),
            model: model.clone(),
            tasks: vec!["piqa".into()],
            data_dir: None,
            image_folder: None,
            limit: None,
            samples: "s".into(),
        };
        assert_eq!(taken(&plain), ["eval", "--model", "m", "--tasks", "piqa", "--precision", "auto", "--samples", "s"]);
        let adapted = Job::Eval {
            name: "a".into(),
            model: ScoredModel {
                adapter: Some("ad".into()),
                load_in_4bit: true,
                image_backend: ImageBackend::Pillow,
                precision: Precision::F32,
                ..model
            },
            tasks: vec!["piqa".into(), "mine.jsonl".into()],
            data_dir: Some("d".into()),
            image_folder: Some("i".into()),
            limit: Some(3),
            samples: "s".into(),
        };
        let expected = "eval --model m --adapter ad --tasks piqa,mine.jsonl --data-dir d --image-folder i --precision f32 --image-backend pillow --samples s --limit 3 \
                        --load-in-4bit";
        assert_eq!(taken(&adapted).join(" "), expected);
    }
}
