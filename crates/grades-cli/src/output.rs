//! The only place that prints: results on standard output, everything else on standard error.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use anyhow::Context;
use serde::Serialize;

/// Prints a line of the result. A reader that has gone away (`grades … | head`) is no error.
pub(crate) fn print(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
}

/// Prints a piece of the result at once, without ending the line.
pub(crate) fn print_piece(piece: &str) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{piece}").and_then(|()| out.flush());
}

/// Prints a piece of the log at once, without ending the line.
pub(crate) fn log_piece(piece: &str) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "{piece}").and_then(|()| out.flush());
}

/// Prints a result as one JSON object.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string(value).context("the result cannot be written as JSON")?);
    Ok(())
}

/// Prints a line of the log.
pub(crate) fn log(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints what the libraries warn of.
struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn && metadata.target().starts_with("grades")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            log(&format!("warning: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Has warnings of the libraries printed as lines of the log.
pub(crate) fn show_warnings() {
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// Sets the number of threads and the sizes that products are cut by, before anything is computed.
pub(crate) fn set_threads(threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
    if let Err(unused) = grades_train::blocks::apply() {
        log(&format!("warning: {unused}"));
    }
    match threads {
        Some(count) => grades_kernels::set_threads(count.get()).context("the number of threads cannot be set"),
        None => Ok(()),
    }
}

/// `count` of a unit in words that fit a line: 1.5 G, 23.4 M, 812.
pub(crate) fn short(count: u64) -> String {
    let count = count as f64;
    match count {
        c if c >= 1e12 => format!("{:.2} T", c / 1e12),
        c if c >= 1e9 => format!("{:.2} G", c / 1e9),
        c if c >= 1e6 => format!("{:.1} M", c / 1e6),
        c if c >= 1e3 => format!("{:.1} k", c / 1e3),
        c => format!("{c}"),
    }
}
