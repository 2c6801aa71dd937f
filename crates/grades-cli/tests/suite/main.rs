//! The built program from outside: its results as JSON, and what it says to mistakes.

#![expect(clippy::disallowed_methods, reason = "tests make the files that they need")]

#[cfg(test)]
mod bench;
#[cfg(test)]
mod compare;
#[cfg(test)]
#[path = "../../../grades-train/tests/suite/fake_hub.rs"]
mod fake_hub;
#[cfg(test)]
mod hub;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod looking_up;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod program;
#[cfg(test)]
mod reading;
#[cfg(test)]
#[path = "../../../grades-train/tests/suite/records.rs"]
mod records;
#[cfg(test)]
mod results;
#[cfg(test)]
mod sweep;
#[cfg(test)]
#[cfg(unix)]
mod talking;
#[cfg(test)]
#[path = "../../../grades-train/tests/suite/tiny_checkpoint.rs"]
mod tiny_checkpoint;
#[cfg(test)]
mod uploads;
#[cfg(test)]
#[path = "../../../grades-train/tests/suite/writable_hub.rs"]
mod writable_hub;
