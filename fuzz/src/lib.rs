//! What every target does with the bytes that libFuzzer makes up.
//!
//! A file of some kilobytes must not make a reader ask for more than [`MOST`]; libFuzzer's own `-rss_limit_mb` sees only what has
//! been written to.

use std::alloc::System;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::abort;
use std::sync::{Mutex, OnceLock};

use cap::Cap;
pub use grades_hostile::reader;
use tempfile::TempDir;

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

/// Gives bytes to a reader, and ends the process if that panics. The folder is one for all that this process reads, as making one takes
/// longer than most files do; it stays behind.
pub fn give(read: fn(&[u8], &Path), bytes: &[u8]) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
    if panic::catch_unwind(AssertUnwindSafe(|| read(bytes, folder.path()))).is_err() {
        eprintln!("{}", SAID.lock().map_or_else(|_| String::new(), |said| said.clone()));
        abort();
    }
}

/// A target: the reader of that name, which is looked up as it is compiled, so that no other is linked.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        const READ: fn(&[u8], &std::path::Path) = $crate::reader($name).read;
        libfuzzer_sys::fuzz_target!(init: $crate::begin(), |bytes: &[u8]| $crate::give(READ, bytes));
    };
}
