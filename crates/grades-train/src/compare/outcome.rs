//! What a comparison came to: rows of runs, and which differences are more than chance.

use std::collections::BTreeMap;

use super::adapter::FULL;
use super::error::CompareError;
use super::finished::Finished;
use super::frontier::Frontier;
use super::questions::{Answers, Metric, Questions};
use crate::significance::{holm, sign_flip};
use grades_report::table::Mean;

/// The method that the others are compared with.
pub(super) const BASELINE: &str = "none";
/// Differences whose corrected p is at least this are called noise.
pub(super) const LEVEL: f64 = 0.05;
/// The test of the mean over all tasks.
pub(super) const AVERAGE: &str = "average";
/// Seed of the tests' random signs.
const SEED: u64 = 0;

/// Everything that a comparison found.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What counts as right.
    pub metric: Metric,
    /// The number of questions by task, in the order of the tasks.
    pub questions: Vec<(String, usize)>,
    /// The answers of the model before training, where there is one.
    pub base: Option<Answers>,
    /// A row for each adapter and method.
    pub rows: Vec<Row>,
    /// Each method against `none` with the same adapter.
    pub tests: Vec<Test>,
    /// For each adapter what training without stopping comes to, where that was asked for.
    pub frontiers: Vec<Frontier>,
    /// What could not be made.
    pub failures: Vec<Failure>,
    /// Runs that were planned.
    pub planned: usize,
}

/// The runs of one method with one adapter.
#[derive(Clone, Debug)]
pub struct Row {
    /// `full`, or the adapter's name.
    pub adapter: String,
    /// The method of early stopping.
    pub method: String,
    /// Its runs by seed.
    pub runs: Vec<(u64, Finished)>,
}

/// A paired test of one row against `none` with the same adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// `full`, or the adapter's name.
    pub adapter: String,
    /// The method.
    pub method: String,
    /// The task, or `average`.
    pub task: String,
    /// Its accuracy less that of `none`, from −1 to 1.
    pub difference: f64,
    /// Seeds that both have.
    pub seeds: usize,
    /// The probability of such a difference by chance alone.
    pub p: f64,
    /// The same corrected for the number of tests made.
    pub p_corrected: f64,
}

/// A run that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The run.
    pub name: String,
    /// Why.
    pub message: String,
}

impl Failure {
    pub(super) fn new(name: &str, error: &CompareError) -> Self {
        let message = error.to_string();
        let message = message.strip_prefix(&format!("{name}: ")).unwrap_or(&message).to_owned();
        Self { name: name.to_owned(), message }
    }
}

impl Test {
    /// Whether chance alone explains the difference.
    #[must_use]
    pub fn is_noise(&self) -> bool {
        self.p_corrected >= LEVEL
    }
}

impl Row {
    pub(super) fn new(adapter: &str, method: &str) -> Self {
        Self { adapter: adapter.to_owned(), method: method.to_owned(), runs: Vec::new() }
    }

    /// One number of each run.
    pub(super) fn values(&self, value: impl Fn(&Finished) -> Option<f64>) -> Vec<f64> {
        self.runs.iter().filter_map(|(_, run)| value(run)).collect()
    }

    /// Its mean.
    pub(super) fn mean(&self, value: impl Fn(&Finished) -> Option<f64>) -> Option<f64> {
        Mean::of(&self.values(value)).map(|mean| mean.mean)
    }

    /// The runs of both rows with one seed.
    pub(super) fn pairs<'a>(&'a self, other: &'a Self) -> Vec<(&'a Finished, &'a Finished)> {
        let of = |seed: u64| other.runs.iter().find(|(of, _)| *of == seed).map(|(_, run)| run);
        self.runs.iter().filter_map(|(seed, run)| Some((run, of(*seed)?))).collect()
    }

    /// A number of `other` over that of this row, over the seeds of both; `None` where either is nothing.
    pub(super) fn ratio(&self, other: &Self, value: impl Fn(&Finished) -> f64) -> Option<f64> {
        let pairs = self.pairs(other);
        let own: f64 = pairs.iter().map(|(own, _)| value(own)).sum();
        let of_other: f64 = pairs.iter().map(|(_, other)| value(other)).sum();
        (own > 0.0 && of_other > 0.0).then(|| of_other / own)
    }
}

/// All arithmetic of a run: training, validation, and the method's own checks.
pub(super) fn flops(run: &Finished) -> f64 {
    let summary = &run.summary;
    (summary.flops.total() + summary.validation_flops + summary.monitor_flops) as f64
}

/// The mean accuracy over the tasks; `None` where there are none.
pub(super) fn average(metric: Metric, answers: &Answers) -> Option<f64> {
    let tasks: Option<Vec<f64>> = answers.values().map(|answers| metric.accuracy(answers)).collect();
    Mean::of(&tasks?).map(|mean| mean.mean)
}

impl Comparison {
    /// Of rows whose runs are still to be made.
    pub(super) fn new(metric: Metric, questions: &Questions, rows: Vec<Row>, planned: usize) -> Self {
        let (tests, frontiers, failures) = (Vec::new(), Vec::new(), Vec::new());
        Self { metric, questions: questions.counts(), base: None, rows, tests, frontiers, failures, planned }
    }

    /// The row of `none` with the adapter of `row`; `None` of that row itself.
    pub(super) fn baseline(&self, row: &Row) -> Option<&Row> {
        let none = self.rows.iter().find(|of| of.adapter == row.adapter && of.method == BASELINE);
        none.filter(|none| none.method != row.method)
    }

    /// What ratios are against: `none` with all parameters as in the paper, or with the same adapter where the
    /// comparison has no such row.
    pub(super) fn reference(&self, row: &Row) -> Option<&Row> {
        let of = |adapter: &str| self.rows.iter().find(|of| of.adapter == adapter && of.method == BASELINE);
        of(FULL).or_else(|| of(&row.adapter))
    }

    /// Whether there is more than one adapter.
    pub(super) fn has_adapters(&self) -> bool {
        self.rows.iter().any(|row| row.adapter != self.rows[0].adapter)
    }

    /// Tests every row against its baseline, anew.
    pub(super) fn test(&mut self) {
        let mut tests = Vec::new();
        for row in &self.rows {
            let Some(none) = self.baseline(row) else { continue };
            let pairs = row.pairs(none);
            if pairs.is_empty() {
                continue;
            }
            let tasks: Vec<_> = self.questions.iter().map(|(task, _)| (task, self.differences(task, &pairs))).collect();
            let mut test = |task: &str, differences: &[f64]| {
                let (difference, p) = (differences.iter().sum::<f64>(), sign_flip(differences, SEED));
                let (adapter, method, seeds) = (row.adapter.clone(), row.method.clone(), pairs.len());
                let task = task.to_owned();
                tests.push(Test { adapter, method, task, difference, seeds, p, p_corrected: p });
            };
            for (task, differences) in &tasks {
                test(task, differences);
            }
            if tasks.len() > 1 {
                let count = tasks.len() as f64;
                let all = tasks.iter().flat_map(|(_, differences)| differences.iter().map(|d| d / count));
                test(AVERAGE, &all.collect::<Vec<_>>());
            }
        }
        let corrected = holm(&tests.iter().map(|test| test.p).collect::<Vec<_>>());
        tests.iter_mut().zip(corrected).for_each(|(test, p)| test.p_corrected = p);
        self.tests = tests;
    }

    /// What each question adds to the difference of the mean accuracies, the mean over the seeds.
    fn differences(&self, task: &str, pairs: &[(&Finished, &Finished)]) -> Vec<f64> {
        let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
        for (run, none) in pairs {
            for (index, (own, other)) in run.answers_to(task).iter().zip(none.answers_to(task)).enumerate() {
                *sums.entry(index).or_default() += self.metric.of(own) - self.metric.of(other);
            }
        }
        let scale = (sums.len() * pairs.len()) as f64;
        sums.into_values().map(|sum| sum / scale).collect()
    }
}
