//! Calls of the program in a temporary folder.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tiny_checkpoint;

/// A folder with `model/`, `data.jsonl`, `config.yaml` and `piqa/validation.jsonl`, in which the program runs.
pub(crate) struct Workspace(TempDir);

impl Workspace {
    pub(crate) fn new() -> Self {
        let workspace = Self(tempfile::tempdir().unwrap());
        tiny_checkpoint::write(&workspace.path("model"), "llama");
        tiny_checkpoint::write_sentences(&workspace.path("data.jsonl"), 12);
        fs::create_dir(workspace.path("piqa")).unwrap();
        let question = |index: usize| {
            json!({ "goal": format!("Keep {index} boats dry."), "sol1": "Lift them out of the river.",
                    "sol2": "Fill them with water.", "label": index % 2 })
        };
        tiny_checkpoint::write_rows(&workspace.path("piqa/validation.jsonl"), (0..5).map(question));
        let config = "model: model\noutput_dir: run\ndatasets: [{path: data.jsonl, type: completion}]\nsequence_len: 128\n\
                      micro_batch_size: 2\nmax_steps: 3\nval_set_size: 2\nlearning_rate: 0.01\nlogging_steps: 100\n";
        fs::write(workspace.path("config.yaml"), config).unwrap();
        workspace
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Calls the program, which asks no Hub for anything.
    pub(crate) fn call(&self, arguments: &[&str]) -> Called {
        self.call_with(&[("HF_HUB_OFFLINE", "1")], arguments)
    }

    /// Calls the program with these variables in its environment.
    pub(crate) fn call_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Called {
        let mut program = Command::new(env!("CARGO_BIN_EXE_grades"));
        program.args(arguments).current_dir(self.0.path()).env("HF_HOME", self.path("hub"));
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"] {
            program.env_remove(name);
        }
        Called(program.envs(variables.iter().copied()).output().unwrap())
    }

    /// Calls the program with this on its standard input.
    pub(crate) fn call_saying(&self, arguments: &[&str], lines: &str) -> Called {
        let mut program = Command::new(env!("CARGO_BIN_EXE_grades"));
        program.args(arguments).current_dir(self.0.path()).env("HF_HOME", self.path("hub")).env("HF_HUB_OFFLINE", "1");
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        // It may have ended before it has read all.
        let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
        Called(child.wait_with_output().unwrap())
    }

    /// The one object that a call with `--json` prints.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let called = self.call(&[arguments, &["--json"][..]].concat());
        assert!(called.succeeded(), "{arguments:?}: {}", called.stderr());
        assert_eq!(called.stdout().lines().count(), 1, "{}", called.stdout());
        let value: Value = serde_json::from_str(&called.stdout()).unwrap();
        assert!(value.is_object());
        value
    }
}

/// What a call came to.
pub(crate) struct Called(Output);

impl Called {
    pub(crate) fn succeeded(&self) -> bool {
        self.0.status.success()
    }

    /// The exit code; `None` after a signal.
    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }
}
