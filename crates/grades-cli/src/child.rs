//! Calls of this program by itself: each run of a comparison is a process of its own.

use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use grades_train::compare::Call;

use crate::output;

/// What makes calls: it logs what they log, and tells the error that they end with.
pub(crate) fn caller(threads: Option<NonZeroUsize>) -> impl FnMut(&Call) -> Result<(), String> {
    move |call| {
        output::log(&format!("  {}", call.title));
        let mut command = Command::new(program()?);
        command.args(&call.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        let mut child = command.spawn().map_err(|error| format!("the process cannot be started ({error})"))?;
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
        if status.success() {
            return Ok(());
        }
        Err(told.unwrap_or_else(|| format!("the process ended with {status}")))
    }
}

/// This program, on Linux also where its file has been replaced since it began: all runs of a comparison are of one build.
fn program() -> Result<PathBuf, String> {
    let itself = Path::new("/proc/self/exe");
    if itself.exists() {
        return Ok(itself.to_owned());
    }
    std::env::current_exe().map_err(|error| format!("this program cannot be found ({error})"))
}
