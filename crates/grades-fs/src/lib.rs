//! Files and folders that are there whole or not at all.
//!
//! What is written goes under a hidden name beside its place, is synced to the disk, and only then gets its name; the folder
//! around it is synced after that. So neither a crash nor a full disk leaves half a file under a name that means something.
//! Invariant: nothing else in the workspace renames, or writes a whole file; `clippy.toml` forbids it. Logs, which grow line
//! by line, are their writers' own. [`seal`] and [`verify`] find what a disk has changed since, and [`lock`] keeps other
//! processes out of a folder.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make the files that they need"))]

mod checksums;
mod disk;
mod error;
mod file;
mod large;
mod lock;
mod space;
mod staging;

pub use checksums::{Damage, Sum, lists, seal, seal_with, verify};
pub use error::Error;
pub use file::{create, write, write_from};
pub use large::LargeFile;
pub use lock::{Lock, lock};
pub use space::free;
pub use staging::{Staging, remove_leftovers_in};
