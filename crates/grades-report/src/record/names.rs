//! The names of a run's files.

/// Every option with its value.
pub const CONFIG: &str = "config.yaml";
/// [`Environment`](super::Environment).
pub const ENVIRONMENT: &str = "environment.json";
/// [`Units`](super::Units).
pub const UNITS: &str = "units.json";
/// A [`Step`](super::Step) a line.
pub const METRICS: &str = "metrics.jsonl";
/// [`Signals`](super::Signals) a line.
pub const SIGNALS: &str = "signals.jsonl";
/// A [`TraceStep`](grades::TraceStep) a line, with `early_stopping.trace`.
pub const TRACE: &str = "trace.jsonl";
/// An [`Event`](super::Event) a line.
pub const EVENTS: &str = "events.jsonl";
/// The first samples, a [`ShownSample`](super::ShownSample) a line; there where they have pictures.
pub const SAMPLES: &str = "samples.jsonl";
/// A [`Generated`](super::Generated) a line, with `generate_samples`.
pub const GENERATED: &str = "generated.jsonl";
/// [`Summary`](super::Summary); there when the run has ended.
pub const SUMMARY: &str = "summary.json";
