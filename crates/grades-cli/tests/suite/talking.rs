//! Ctrl-C in a chat at a terminal: it ends an answer, and at the prompt the program.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
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
        // What was said before has no part in it, so that every answer is the same.
        config["chat_template"] = "{{ messages[-1].content }}\n".into();
    });
}

/// Ended with the test, however that ends.
struct Talk(Child);

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
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
    program.stdin(keyboard).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut talk = Talk(program.spawn().unwrap());
    let pid = Pid::from_child(&talk.0);
    let interrupt = || kill_process(pid, Signal::INT).unwrap();
    let mut terminal = File::from(terminal);
    // How many bytes of answers there are.
    let (written, mut answer) = (Arc::new(AtomicUsize::new(0)), talk.0.stdout.take().unwrap());
    let counted = written.clone();
    thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok(read @ 1..) = answer.read(&mut bytes) {
            counted.fetch_add(read, SeqCst);
        }
    });

    for file in ["said.jsonl", "more.jsonl"] {
        let before = written.load(SeqCst);
        writeln!(terminal, "where does the old bell ring?").unwrap();
        until(|| written.load(SeqCst) >= before + 8);
        interrupt();
        writeln!(terminal, "/save {file}").unwrap();
        until(|| workspace.path(file).exists());
        // All of the answer was written before that.
        until(|| {
            let count = written.load(SeqCst);
            thread::sleep(Duration::from_millis(200));
            count == written.load(SeqCst)
        });
        let said: Value = serde_json::from_slice(&fs::read(workspace.path(file)).unwrap()).unwrap();
        let said: Vec<(&str, usize)> = said["messages"].as_array().unwrap().iter().map(told).collect();
        // The conversation goes on with what was there.
        let turns = if file == "said.jsonl" { 1 } else { 2 };
        assert_eq!(said.iter().map(|(role, _)| *role).collect::<Vec<_>>(), ["user", "assistant"].repeat(turns));
        assert!(said.iter().all(|(_, length)| (1..100_000).contains(length)), "{said:?}");
    }
    // At the prompt nothing is there to be ended but the chat.
    interrupt();
    let status = talk.0.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status:?}");
}

/// Who said something, and how much.
fn told(message: &Value) -> (&str, usize) {
    (message["role"].as_str().unwrap(), message["content"].as_str().unwrap().len())
}
