//! Memory of a process while it loads a model.

#![expect(clippy::disallowed_methods, reason = "tests make the files that they need")]

#[cfg(test)]
mod loading;
