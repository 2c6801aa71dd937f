//! What every target does with the bytes that libFuzzer makes up.
//!
//! A file of some kilobytes must not make a reader ask for more than [`MOST`]; libFuzzer's own `-rss_limit_mb` sees only what has
//! been written to.

use std::alloc::System;
use std::panic::{self, AssertUnwindSafe};
use std::process::abort;
use std::sync::Mutex;

use cap::Cap;

/// Most bytes that the process may hold.
const MOST: usize = 1 << 30;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MOST);

/// What the last panic said. A panic that a reader catches by itself (the parquet library indexes past damaged pages) is an error like
/// others, so nothing is printed before it is known to come through.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Takes back libFuzzer's own hook, which ends the process at any panic.
pub fn begin() {
    panic::set_hook(Box::new(|panic| {
        if let Ok(mut said) = SAID.lock() {
            *said = panic.to_string();
        }
    }));
}

/// Gives bytes to a reader, and ends the process if that panics.
pub fn read(name: &str, bytes: &[u8]) {
    if panic::catch_unwind(AssertUnwindSafe(|| grades_hostile::read(name, bytes))).is_err() {
        eprintln!("{}", SAID.lock().map_or_else(|_| String::new(), |said| said.clone()));
        abort();
    }
}
