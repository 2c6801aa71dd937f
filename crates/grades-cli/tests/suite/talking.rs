//! Ctrl-C in a chat at a terminal: it ends an answer, and at the prompt the program.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::program::Workspace;

/// A model that goes on writing for very long, with a chat template.
fn endless(workspace: &Workspace) {
    let edit = |name: &str, change: &dyn Fn(&mut Value)| {
        let path = workspace.path("model").join(name);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    };
    edit("config.json", &|config| config["max_position_embeddings"] = 200_000.into());
    edit("tokenizer_config.json", &|config| {
        config["chat_template"] = "{% for m in messages %}{{ m.content }}\n{% endfor %}".into();
    });
}

fn until(mut what: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ctrl_c_ends_an_answer_and_at_the_prompt_the_chat() {
    let workspace = Workspace::new();
    endless(&workspace);
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let keyboard = OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_grades"));
    program.args(["chat", "model", "--max-new-tokens", "1000000"]).current_dir(workspace.path("."));
    program.stdin(keyboard).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let interrupt = || kill_process(pid, Signal::INT).unwrap();
    let mut terminal = File::from(terminal);
    let mut type_line = |line: &str| writeln!(terminal, "{line}").unwrap();
    let mut answer = child.stdout.take().unwrap();

    type_line("where does the old bell ring?");
    answer.read_exact(&mut [0; 8]).unwrap();
    interrupt();
    type_line("/save said.jsonl");
    until(|| workspace.path("said.jsonl").exists());
    let said: Value = serde_json::from_slice(&fs::read(workspace.path("said.jsonl")).unwrap()).unwrap();
    let messages = said["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant"]);
    let length = messages[1]["content"].as_str().unwrap().len();
    assert!((1..100_000).contains(&length), "{length}");
    // The chat goes on, and its next answer can be ended, too.
    type_line("and the small kite?");
    let mut byte = [0];
    while byte != *b"\n" {
        answer.read_exact(&mut byte).unwrap();
    }
    answer.read_exact(&mut [0; 8]).unwrap();
    interrupt();
    type_line("/save more.jsonl");
    until(|| workspace.path("more.jsonl").exists());
    // At the prompt nothing is there to be ended but the chat.
    interrupt();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status:?}");
}
