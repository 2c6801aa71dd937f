//! Asking a run to end between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// A request to end after the step that a run is at, with a checkpoint. Clones are the same request.
#[derive(Clone, Debug)]
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
    at_once: Arc<AtomicBool>,
}

impl Default for Interrupt {
    fn default() -> Self {
        Self { signal: Arc::default(), at_once: Arc::new(AtomicBool::new(true)) }
    }
}

impl Interrupt {
    /// Where the number of the signal that asks is written; 0 if none has.
    #[must_use]
    pub fn signal(&self) -> &Arc<AtomicUsize> {
        &self.signal
    }

    /// Whether a signal should end the program at once: before and after the steps, and once one has been heard.
    #[must_use]
    pub fn at_once(&self) -> &Arc<AtomicBool> {
        &self.at_once
    }

    /// From here on a signal waits for the end of a step.
    pub fn begin(&self) {
        self.at_once.store(false, SeqCst);
    }

    /// From here on a signal ends the program at once, as before.
    pub fn end(&self) {
        self.at_once.store(true, SeqCst);
    }

    /// The signal that was heard, which is forgotten.
    #[must_use]
    pub fn take(&self) -> Option<i32> {
        i32::try_from(self.signal.swap(0, SeqCst)).ok().filter(|signal| *signal != 0)
    }

    /// The signal that was heard.
    #[must_use]
    pub fn heard(&self) -> Option<i32> {
        i32::try_from(self.signal.load(SeqCst)).ok().filter(|signal| *signal != 0)
    }
}
