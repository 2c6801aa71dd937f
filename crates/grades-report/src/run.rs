//! A run as a report reads it: from the files of its directory, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use grades::{Flops, Kind, Tower, UnitId};
use serde::de::DeserializeOwned;

use crate::error::ReportError;
use crate::record::{
    self, Environment, Event, Generated, ShownSample, Signals, Step, Summary, TaskScores, UnitThreshold, Units,
    main_score,
};

/// A run, finished or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// What readers call it.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// Its steps.
    pub steps: Vec<Step>,
    /// What was measured.
    pub signals: Vec<Signals>,
    /// What happened.
    pub events: Vec<Event>,
    /// What can freeze.
    pub units: Units,
    /// The resolved config as it is written; empty if there is none.
    pub config: String,
    /// Machine, program and sizes.
    pub environment: Environment,
    /// Some of what it trains on, where that has pictures.
    pub samples: Vec<ShownSample>,
    /// Its answers to prompts while it trained.
    pub generated: Vec<Generated>,
    /// What the run came to; `None` while it goes on.
    pub summary: Option<Summary>,
}

impl Run {
    /// Reads a run's directory. The last line of a file may be incomplete, as while a run goes on; every other file than
    /// `metrics.jsonl` may be missing.
    ///
    /// # Errors
    /// If there is no run, or a line or file is damaged; the message names it.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let mut run = Self { signals: lines(&path.join(record::SIGNALS))?, ..Self::read_without_signals(path)? };
        if run.units.units.is_empty() {
            run.units.units = run.seen().into_iter().map(|unit| UnitThreshold { unit, threshold: None }).collect();
        }
        Ok(run)
    }

    /// The same without the signals, which are most of what a long run leaves.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_without_signals(path: &Path) -> Result<Self, ReportError> {
        let file = |name: &str| path.join(name);
        let Some(metrics) = text(&file(record::METRICS))? else {
            return Err(ReportError::NoRun { path: path.into() });
        };
        let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(Self {
            name: name.unwrap_or_else(|| path.display().to_string()),
            path: path.into(),
            steps: parse_lines(&file(record::METRICS), &metrics)?,
            signals: Vec::new(),
            events: lines(&file(record::EVENTS))?,
            units: object(&file(record::UNITS))?.unwrap_or_default(),
            config: text(&file(record::CONFIG))?.unwrap_or_default(),
            environment: object(&file(record::ENVIRONMENT))?.unwrap_or_default(),
            samples: lines(&file(record::SAMPLES))?,
            generated: lines(&file(record::GENERATED))?,
            summary: object(&file(record::SUMMARY))?,
        })
    }

    /// Units that a signal or an event names, for runs without `units.json`.
    fn seen(&self) -> BTreeSet<UnitId> {
        let measured = self.signals.iter().flat_map(|line| line.signals.keys().copied());
        measured.chain(self.freezes().map(|(_, unit, _)| unit)).collect()
    }

    /// Every freezing (`true`) and thawing of a unit, with its step.
    fn freezes(&self) -> impl Iterator<Item = (usize, UnitId, bool)> + '_ {
        self.events.iter().filter_map(Event::freezes)
    }

    /// The step at which each frozen unit froze.
    #[must_use]
    pub fn frozen_at(&self) -> BTreeMap<UnitId, usize> {
        let mut frozen = BTreeMap::new();
        for (step, unit, freezes) in self.freezes() {
            if freezes {
                frozen.insert(unit, step);
            } else {
                frozen.remove(&unit);
            }
        }
        frozen
    }

    /// How many units can freeze.
    #[must_use]
    pub fn unit_count(&self) -> usize {
        self.environment.units.unwrap_or(0).max(self.units.units.len())
    }

    /// After every step, the share of all units that is frozen.
    #[must_use]
    pub fn frozen_share(&self) -> Vec<(f64, f64)> {
        let units = self.unit_count().max(1) as f64;
        self.steps.iter().map(|step| (step.step as f64, step.frozen_units as f64 / units)).collect()
    }

    /// The same of one kind of matrix.
    #[must_use]
    pub fn frozen_share_of(&self, kind: Kind) -> Vec<(f64, f64)> {
        self.frozen_share_where(|unit| unit.role.kind() == Some(kind))
    }

    /// The same of some of the matrices.
    #[must_use]
    pub fn frozen_share_where(&self, of: impl Fn(UnitId) -> bool) -> Vec<(f64, f64)> {
        let count = self.units.units.iter().filter(|unit| of(unit.unit)).count();
        let mut changes = self.freezes().filter(|(_, unit, _)| of(*unit)).peekable();
        let mut frozen = BTreeSet::new();
        let mut share = |step: &Step| {
            while let Some((_, unit, freezes)) = changes.next_if(|(at, ..)| *at <= step.step) {
                let _ = if freezes { frozen.insert(unit) } else { frozen.remove(&unit) };
            }
            (step.step as f64, frozen.len() as f64 / count.max(1) as f64)
        };
        self.steps.iter().map(&mut share).collect()
    }

    /// At every measured step, the mean signal of the units of one kind that were measured.
    #[must_use]
    pub fn mean_signal(&self, kind: Kind) -> Vec<(f64, Option<f64>)> {
        self.mean_signal_where(|unit| unit.role.kind() == Some(kind))
    }

    /// The same of some of the units.
    #[must_use]
    pub fn mean_signal_where(&self, of: impl Fn(UnitId) -> bool) -> Vec<(f64, Option<f64>)> {
        let mean = |line: &Signals| {
            let values: Vec<f64> =
                line.signals.iter().filter(|(unit, _)| of(**unit)).filter_map(|(_, value)| *value).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (line.step as f64, (!values.is_empty()).then_some(mean))
        };
        self.signals.iter().map(mean).collect()
    }

    /// The towers that it has matrices of, in their order.
    #[must_use]
    pub fn towers(&self) -> Vec<Tower> {
        let towers: BTreeSet<Tower> = self.units.units.iter().map(|unit| unit.unit.tower).collect();
        towers.into_iter().collect()
    }

    /// The validation losses, that at the end of the run with them.
    #[must_use]
    pub fn validation_losses(&self) -> Vec<(f64, Option<f64>)> {
        let at = |step: &Step| Some((step.step as f64, Some(step.val_loss?)));
        let mut losses: Vec<_> = self.steps.iter().filter_map(at).collect();
        if let (Some(last), Some(loss)) =
            (self.steps.last(), self.summary.as_ref().and_then(|summary| summary.val_loss))
            && last.val_loss.is_none()
        {
            losses.push((last.step as f64, Some(loss)));
        }
        losses
    }

    /// The validation losses of the average of the weights, where one is kept.
    #[must_use]
    pub fn average_losses(&self) -> Vec<(f64, Option<f64>)> {
        let at = |step: &Step| Some((step.step as f64, Some(step.average_val_loss?)));
        self.steps.iter().filter_map(at).collect()
    }

    /// The operations of training that were executed by the end of each step.
    pub fn executed_by_step(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.steps.iter().scan(0, |executed, step| {
            *executed += step.flops.executed.total();
            Some((step.step as f64, *executed as f64))
        })
    }

    /// Scores of benchmarks by step, those at the end of the run with them.
    fn scores(&self) -> impl Iterator<Item = (usize, &TaskScores)> {
        let during = self.steps.iter().filter_map(|step| Some((step.step, step.eval_tasks.as_ref()?)));
        let end = self.summary.as_ref().and_then(|summary| summary.eval_tasks.as_ref());
        during.chain(self.steps.last().map(|step| step.step).zip(end))
    }

    /// The benchmarks that it was scored on.
    #[must_use]
    pub fn benchmarks(&self) -> BTreeSet<&str> {
        self.scores().flat_map(|(_, scores)| scores.keys()).map(String::as_str).collect()
    }

    /// What a benchmark is judged by, step by step.
    #[must_use]
    pub fn scores_of(&self, benchmark: &str) -> Vec<(f64, Option<f64>)> {
        let of = |(step, scores): (usize, &TaskScores)| {
            scores.get(benchmark).map(|numbers| (step as f64, main_score(numbers).map(|(_, value)| value)))
        };
        self.scores().filter_map(of).collect()
    }

    /// The share that was frozen while a step ran, with the step's seconds: a unit that freezes at a step makes the next
    /// one cheaper.
    #[must_use]
    pub fn seconds_by_share(&self) -> Vec<(f64, f64)> {
        let units = self.unit_count().max(1) as f64;
        let before = self.steps.iter().map(|step| step.frozen_units as f64 / units);
        let seconds = self.steps.iter().map(|step| step.step_seconds);
        before.zip(seconds.skip(1)).collect()
    }

    /// Operations with and without freezing.
    #[must_use]
    pub fn arithmetic(&self) -> Arithmetic {
        let mut executed = [0.0; 3];
        let (mut whole, mut whole_tokens) = ([0.0; 3], 0);
        let (mut before, mut frozen) = (0, false);
        for step in &self.steps {
            let Flops { forward, input_gradient, weight_gradient } = step.flops.executed;
            let flops = [forward, input_gradient, weight_gradient].map(|flops| flops as f64);
            let add = |sum: &mut [f64; 3]| sum.iter_mut().zip(flops).for_each(|(sum, flops)| *sum += flops);
            add(&mut executed);
            if !frozen {
                add(&mut whole);
                whole_tokens += step.tokens.saturating_sub(before);
            }
            before = step.tokens;
            frozen |= step.frozen_units > 0;
        }
        let tokens = before as f64;
        let unfrozen = match (frozen, whole_tokens) {
            (true, 1..) => whole.map(|flops| flops / whole_tokens as f64 * tokens),
            _ => executed,
        };
        let planned = self.environment.planned_steps.unwrap_or(0).saturating_sub(self.steps.len());
        let stopped = self.stopped_by().is_some();
        let not_made = if stopped && !self.steps.is_empty() {
            unfrozen.iter().sum::<f64>() / self.steps.len() as f64 * planned as f64
        } else {
            0.0
        };
        Arithmetic { executed, unfrozen, not_made }
    }

    /// Why the run ended before the planned steps.
    #[must_use]
    pub fn stopped_by(&self) -> Option<&str> {
        self.summary.as_ref()?.stopped_by.as_deref()
    }
}

/// Reads runs; those of one name are told apart by their paths.
///
/// # Errors
/// As [`Run::read`].
pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Run>, ReportError> {
    let mut runs = paths.iter().map(|path| Run::read(path.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (index, run) in runs.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[index]).count() > 1 {
            run.name = run.path.display().to_string();
        }
    }
    Ok(runs)
}

/// Operations of a run: forward pass, gradients of inputs, gradients of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arithmetic {
    /// What was executed.
    pub executed: [f64; 3],
    /// What the same tokens would have taken with nothing frozen: the operations per token up to the first step at which
    /// something froze (that step runs whole), times all tokens. An estimate, because attention's share depends on the
    /// lengths of the samples.
    pub unfrozen: [f64; 3],
    /// What the planned steps that were not made would have taken, of the same mean size: an estimate too.
    pub not_made: f64,
}

/// A file's text, `None` where there is no such file.
fn text(path: &Path) -> Result<Option<String>, ReportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReportError::Io { path: path.into(), source }),
    }
}

fn object<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReportError> {
    let parsed = text(path)?.map(|text| serde_json::from_str(&text)).transpose();
    parsed.map_err(|error| ReportError::Json { path: path.into(), problem: error.to_string() })
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ReportError> {
    text(path)?.map_or(Ok(Vec::new()), |text| parse_lines(path, &text))
}

fn parse_lines<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<T>, ReportError> {
    let mut values = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(value) => values.push(value),
            // The run is writing it just now, or was interrupted while it did.
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => {
                return Err(ReportError::Line { path: path.into(), line: index + 1, problem: error.to_string() });
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{METRICS, StepFlops};

    /// A run of two matrices of attention and one of the MLP: `q` freezes at step 2, `up` at step 3.
    fn run() -> Run {
        let step = |step: usize, tokens, frozen_units, flops: [u64; 3]| Step {
            step,
            tokens,
            frozen_units,
            step_seconds: step as f64,
            flops: StepFlops {
                executed: Flops { forward: flops[0], input_gradient: flops[1], weight_gradient: flops[2] },
                skipped: None,
            },
            ..Step::default()
        };
        let unit = |name: &str| UnitThreshold { unit: name.parse().unwrap(), threshold: None };
        let freeze = |step, unit: &str| {
            Event::Decision(grades::Event::Freeze { step, unit: unit.parse().unwrap(), signal: None })
        };
        let signals = |step, values: &[(&str, Option<f64>)]| Signals {
            step,
            signals: values.iter().map(|(name, value)| (name.parse().unwrap(), *value)).collect(),
        };
        Run {
            steps: vec![
                step(1, 10, 0, [20, 20, 20]),
                step(2, 30, 1, [40, 40, 40]),
                step(3, 40, 2, [20, 20, 10]),
                step(4, 60, 2, [40, 30, 10]),
            ],
            signals: vec![
                signals(2, &[("language.0.q", Some(1.0)), ("language.0.k", Some(4.0)), ("language.0.up", None)]),
                signals(3, &[("language.0.k", Some(2.0)), ("language.0.up", Some(0.5))]),
            ],
            events: vec![freeze(2, "language.0.q"), freeze(3, "language.0.up")],
            units: Units {
                units: ["language.0.q", "language.0.k", "language.0.up"].map(unit).into(),
                ..Units::default()
            },
            environment: Environment { units: Some(3), planned_steps: Some(10), ..Environment::default() },
            ..Run::default()
        }
    }

    #[test]
    fn shares_count_from_the_step_of_the_decision() {
        let run = run();
        let shares: Vec<f64> = run.frozen_share().into_iter().map(|(_, share)| share).collect();
        assert_eq!(shares, [0.0, 1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(run.frozen_share_of(Kind::Attention), [(1.0, 0.0), (2.0, 0.5), (3.0, 0.5), (4.0, 0.5)]);
        assert_eq!(run.frozen_share_of(Kind::Mlp), [(1.0, 0.0), (2.0, 0.0), (3.0, 1.0), (4.0, 1.0)]);
        let frozen: Vec<_> = run.frozen_at().into_iter().map(|(unit, step)| (unit.to_string(), step)).collect();
        assert_eq!(frozen, [("language.0.q".to_owned(), 2), ("language.0.up".to_owned(), 3)]);
        // A unit that froze at step 2 makes step 3 cheaper.
        assert_eq!(run.seconds_by_share(), [(0.0, 2.0), (1.0 / 3.0, 3.0), (2.0 / 3.0, 4.0)]);
    }

    #[test]
    fn means_leave_out_what_is_not_finite() {
        assert_eq!(run().mean_signal(Kind::Attention), [(2.0, Some(2.5)), (3.0, Some(2.0))]);
        assert_eq!(run().mean_signal(Kind::Mlp), [(2.0, None), (3.0, Some(0.5))]);
    }

    #[test]
    fn the_last_validation_counts_once() {
        let mut run = run();
        run.steps[1].val_loss = Some(3.0);
        assert_eq!(run.validation_losses(), [(2.0, Some(3.0))]);
        run.summary = Some(Summary { val_loss: Some(2.5), ..Summary::default() });
        assert_eq!(run.validation_losses(), [(2.0, Some(3.0)), (4.0, Some(2.5))]);
        run.steps[3].val_loss = Some(2.5);
        assert_eq!(run.validation_losses(), [(2.0, Some(3.0)), (4.0, Some(2.5))]);
    }

    #[test]
    fn scores_of_benchmarks_follow_one_another_up_to_the_end() {
        let scores = |acc: f64| -> TaskScores {
            let numbers = [("acc".to_owned(), acc), ("acc_norm".to_owned(), 0.9)];
            [("piqa".to_owned(), numbers.into())].into()
        };
        let mut run = run();
        assert!(run.benchmarks().is_empty());
        run.steps[1].eval_tasks = Some(scores(0.5));
        run.summary = Some(Summary { eval_tasks: Some(scores(0.75)), ..Summary::default() });
        assert_eq!(run.benchmarks().into_iter().collect::<Vec<_>>(), ["piqa"]);
        assert_eq!(run.scores_of("piqa"), [(2.0, Some(0.5)), (4.0, Some(0.75))]);
        assert_eq!(run.scores_of("boolq"), []);
    }

    #[test]
    fn what_freezing_saves_is_counted_by_token() {
        let mut run = run();
        // 30 tokens up to the first freeze take 60 of each kind, so 60 tokens take 120.
        let arithmetic = run.arithmetic();
        assert_eq!(arithmetic.executed, [120.0, 110.0, 80.0]);
        assert_eq!(arithmetic.unfrozen, [120.0; 3]);
        assert_eq!(arithmetic.not_made, 0.0);
        // Six of ten planned steps were not made, each of 360 / 4 operations.
        run.summary = Some(Summary { stopped_by: Some("all_frozen".into()), ..Summary::default() });
        assert_eq!(run.arithmetic().not_made, 540.0);
        for step in &mut run.steps {
            step.frozen_units = 0;
        }
        assert_eq!(run.arithmetic().unfrozen, run.arithmetic().executed);
        run.steps.clear();
        assert_eq!(run.arithmetic(), Arithmetic { executed: [0.0; 3], unfrozen: [0.0; 3], not_made: 0.0 });
    }

    #[test]
    fn a_partial_last_line_is_still_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert!(matches!(Run::read(folder.path()), Err(ReportError::NoRun { .. })));
        write(METRICS, "");
        assert!(Run::read(folder.path()).unwrap().steps.is_empty());
        write(METRICS, "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"lo");
        let run = Run::read(folder.path()).unwrap();
        assert_eq!((run.steps.len(), run.steps[0].loss), (1, Some(2.5)));
        write(METRICS, "{\"step\": 1}\n{\"step\": 2, \"lo\n{\"step\": 3}\n");
        let message = Run::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl") && message.contains("line 2"), "{message}");
        write(METRICS, "{\"step\": 1}\n");
        write("summary.json", "{");
        assert!(Run::read(folder.path()).unwrap_err().to_string().contains("summary.json"));
    }
}
