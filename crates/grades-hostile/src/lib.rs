//! Every reader of files that others may have made, as a function of bytes.
//!
//! A reader may refuse its bytes; it may not panic, allocate what a file merely declares, or take long. The tests here feed each
//! with mutations of files that are right (`tests/mutated/`), and `fuzz/` gives the same functions to libFuzzer. A file that was once
//! a mistake stays in `crashes/<reader>/`.

use std::sync::OnceLock;

use tempfile::TempDir;

mod corpus;
mod mutation;
mod readers;

pub use corpus::crashes;
pub use mutation::Mutator;
pub use readers::{READERS, Reader, outline};

/// Gives bytes to the reader of that name: what a target of `fuzz/` does. The folder is one for all that this process reads, as
/// making one takes longer than most files do; it stays behind.
///
/// # Panics
/// If there is no such reader, or no temporary folder; and where the reader does.
#[expect(clippy::expect_used, reason = "a target of fuzzing has nobody to tell")]
pub fn read(name: &str, bytes: &[u8]) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let reader = READERS.iter().find(|reader| reader.name == name).expect("a reader of this name");
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
    (reader.read)(bytes, folder.path());
}
