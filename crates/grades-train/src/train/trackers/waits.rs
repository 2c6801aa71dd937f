//! Lines that wait for their files: when it is time to write them, and the one warning where they cannot be written.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long lines wait at most, so that a step does not open a file for each.
const WAIT: Duration = Duration::from_secs(10);

/// Of one tool.
#[derive(Debug)]
pub(super) struct Waits {
    tool: &'static str,
    written: Instant,
    warned: bool,
}

impl Waits {
    pub(super) fn new(tool: &'static str) -> Self {
        Self { tool, written: Instant::now(), warned: false }
    }

    /// Whether they have waited long enough.
    pub(super) fn are_over(&self) -> bool {
        self.written.elapsed() > WAIT
    }

    /// They were written, or go on waiting: with a warning, once.
    pub(super) fn tried(&mut self, written: Result<(), impl Display>) {
        self.written = Instant::now();
        if let Err(error) = written
            && !std::mem::replace(&mut self.warned, true)
        {
            log::warn!(
                "{error}; training goes on, and what {} is told waits in memory until it can be written",
                self.tool
            );
        }
    }
}
