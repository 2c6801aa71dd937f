//! Every reader of files that others may have made, as a function of bytes.
//!
//! A reader may refuse its bytes; it may not panic, allocate what a file merely declares, or take long. The tests here feed each
//! with mutations of files that are right (`tests/mutated/`), and `fuzz/` gives the same functions to libFuzzer. A file that was once
//! a mistake stays in `crashes/<reader>/`.

mod corpus;
mod mutation;
mod readers;

pub use corpus::crashes;
pub use mutation::Mutator;
pub use readers::{READERS, Reader, outline, reader};
