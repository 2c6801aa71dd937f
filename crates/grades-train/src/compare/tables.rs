//! The paper's Table 1 (accuracy) and Table 4 (cost) of a comparison, the tests, and what they say in words.

use serde_json::{Value, json};

use super::finished::Finished;
use super::outcome::{AVERAGE, BASELINE, Comparison, LEVEL, Row, average, flops};
use grades_report::number;
use grades_report::table::{Cell, Mean, Table};

/// What the first row is called.
const BEFORE: &str = "before training";

impl Comparison {
    /// Accuracy by task and on average, in percent, and the validation loss at the end.
    #[must_use]
    pub fn accuracy(&self) -> Table {
        let task = |(task, count): &(String, usize)| (format!("accuracy.{task}"), format!("{task} ({count})"));
        let mut columns = vec![("adapter".to_owned(), "Adapter".to_owned()), ("method".into(), "Method".into())];
        columns.extend(self.questions.iter().map(task));
        if self.questions.len() > 1 {
            columns.push((AVERAGE.into(), "Average".into()));
        }
        columns.extend([("val_loss".into(), "Validation loss".into()), ("seeds".into(), "Seeds".into())]);
        let measure = match self.metric.name() {
            "acc" => "Accuracy (acc)",
            _ => "Accuracy by character (acc_norm)",
        };
        let caption = match self.questions.is_empty() {
            true => "Validation loss at the end, mean ± deviation over seeds".to_owned(),
            false => format!(
                "{measure} in percent with the number of questions, and the validation loss at the end: mean ± deviation over seeds"
            ),
        };
        let mut table = Table::new(caption, columns);
        let shares = |values: Vec<f64>| Mean::of(&values).map_or(Cell::Empty, |mean| Cell::Share(mean, 1));
        if let Some(base) = &self.base {
            let mut cells = vec![Cell::text("–"), Cell::text(BEFORE)];
            let of = |task: &str| base.get(task).and_then(|answers| self.metric.accuracy(answers));
            cells.extend(self.questions.iter().map(|(task, _)| shares(of(task).into_iter().collect())));
            if self.questions.len() > 1 {
                cells.push(shares(average(self.metric, base).into_iter().collect()));
            }
            table.row(cells);
        }
        for row in &self.rows {
            let mut cells = vec![Cell::text(&row.adapter), Cell::text(&row.method)];
            cells.extend(self.questions.iter().map(|(task, _)| shares(row.values(|run| self.of_task(run, task)))));
            if self.questions.len() > 1 {
                cells.push(shares(row.values(|run| average(self.metric, &run.answers))));
            }
            cells.extend([Cell::mean(&row.values(|run| run.summary.val_loss), 4), Cell::count(row.runs.len() as u64)]);
            table.row(cells);
        }
        table
    }

    fn of_task(&self, run: &Finished, task: &str) -> Option<f64> {
        run.answers.get(task).and_then(|answers| self.metric.accuracy(answers))
    }

    /// What a reader asks first: how good, how long, how much arithmetic.
    pub(super) fn summary(&self) -> Table {
        let mut all = self.accuracy().beside(&self.cost(), 2);
        if !self.frontiers.is_empty() {
            all = all.beside(&self.excess(), 2);
        }
        let tasks: Vec<String> = self.questions.iter().map(|(task, _)| format!("accuracy.{task}")).collect();
        let mut keys = vec!["adapter", "method"];
        keys.extend(tasks.iter().map(String::as_str));
        keys.extend([
            AVERAGE,
            "val_loss",
            "excess",
            "excess_p",
            "seconds",
            "speedup",
            "flops",
            "flops_ratio",
            "steps",
            "seeds",
        ]);
        let mut table = all.select(&keys);
        table.caption = "Mean ± deviation over the seeds".to_owned();
        table
    }

    /// Time, arithmetic, steps and memory.
    #[must_use]
    pub fn cost(&self) -> Table {
        let both = self.has_adapters();
        let mut columns = vec![
            ("adapter", "Adapter"),
            ("method", "Method"),
            ("seconds", "Time (s)"),
            ("validation_seconds", "of it validation"),
            ("monitor_seconds", "of it monitoring"),
            ("speedup", "Speedup"),
            ("flops", "FLOPs"),
            ("flops_ratio", "FLOPs ratio"),
        ];
        if both {
            columns.extend([("speedup_own", "Speedup, own"), ("flops_ratio_own", "FLOPs ratio, own")]);
        }
        columns.extend([
            ("steps", "Steps"),
            ("frozen_units", "Frozen"),
            ("peak_memory_bytes", "Peak memory (B)"),
            ("validation_flops", "FLOPs, validation"),
            ("monitor_flops", "FLOPs, monitoring"),
            ("monitor_bytes", "Kept for it (B)"),
        ]);
        let reference = match (self.reference_name(), both) {
            (None, _) => "without `none` there are no ratios".to_owned(),
            (Some(name), false) => format!("speedup and FLOPs ratio against {name}"),
            (Some(name), true) => {
                format!("speedup and FLOPs ratio against {name}, and (own) against none with the same adapter")
            }
        };
        let caption = format!(
            "Cost of training, mean ± deviation over seeds: seconds of the steps with validation and monitoring, FLOPs with \
             those of validation and monitoring, {reference}; monitoring holds the pass that gives clipping its norm, too; peak memory is the largest of the seeds"
        );
        let mut table = Table::new(caption, columns);
        for row in &self.rows {
            let mean = |value: &dyn Fn(&Finished) -> f64| row.mean(|run| Some(value(run)));
            let ratios = |other: Option<&Row>| other.map_or([Cell::Empty, Cell::Empty], |other| ratios(row, other));
            let mut cells = vec![
                Cell::text(&row.adapter),
                Cell::text(&row.method),
                Cell::mean(&row.values(|run| Some(run.summary.seconds)), 1),
                Cell::number(row.mean(|run| run.summary.validation_seconds), 1),
                Cell::number(mean(&|run| run.summary.monitor_seconds), 1),
            ];
            let [speedup, ratio] = ratios(self.reference(row));
            cells.extend([speedup, Cell::short(mean(&flops)), ratio]);
            if both {
                cells.extend(ratios(self.own(row)));
            }
            cells.extend([
                Cell::mean(&row.values(|run| Some(run.summary.steps as f64)), 0),
                Cell::mean(&row.values(|run| Some(run.summary.frozen_units as f64)), 0),
                Cell::short(peak(row)),
                Cell::short(mean(&|run| run.summary.validation_flops as f64)),
                Cell::short(mean(&|run| run.summary.monitor_flops as f64)),
                Cell::short(mean(&|run| run.summary.monitor_bytes as f64)),
            ]);
            table.row(cells);
        }
        table
    }

    /// The row of `none` with the same adapter.
    fn own(&self, row: &Row) -> Option<&Row> {
        self.rows.iter().find(|of| of.adapter == row.adapter && of.method == BASELINE)
    }

    fn reference_name(&self) -> Option<String> {
        let row = self.rows.first().and_then(|row| self.reference(row))?;
        Some(format!("{} {}", row.adapter, row.method))
    }

    /// The paired tests.
    #[must_use]
    pub fn tests_table(&self) -> Table {
        let columns = [
            ("adapter", "Adapter"),
            ("method", "Method"),
            ("task", "Task"),
            ("difference", "Difference (points)"),
            ("p", "p"),
            ("p_corrected", "p, corrected"),
            ("verdict", "Verdict"),
        ];
        let caption = format!(
            "Each method against none with the same adapter: difference in accuracy, the probability of it by chance (sign-flip \
             permutation test over the questions, mean over the seeds of both), corrected for {} tests after Holm; noise from {LEVEL} on",
            self.tests.len()
        );
        let mut table = Table::new(caption, columns);
        for test in &self.tests {
            table.row([
                Cell::text(&test.adapter),
                Cell::text(&test.method),
                Cell::text(&test.task),
                Cell::Number(100.0 * test.difference, 2),
                Cell::Number(test.p, 4),
                Cell::Number(test.p_corrected, 4),
                Cell::text(if test.is_noise() { "noise" } else { "more than noise" }),
            ]);
        }
        table
    }

    /// What was found, a sentence a row that is compared with `none`, and a sentence for what is missing.
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        let mut findings = self.frontier_findings();
        findings.extend(self.rows.iter().filter_map(|row| self.finding(row)));
        if self.rows.iter().any(|row| row.runs.len() < 2) {
            findings.push("With one seed no deviation is known: times and losses may differ by chance.".to_owned());
        }
        for failure in &self.failures {
            findings.push(format!("{} failed and is left out: {}", failure.name, failure.message));
        }
        findings
    }

    fn finding(&self, row: &Row) -> Option<String> {
        let none = self.baseline(row)?;
        let pairs = row.pairs(none);
        if pairs.is_empty() {
            return None;
        }
        let mut parts = Vec::new();
        for test in self.tests.iter().filter(|test| (&test.adapter, &test.method) == (&row.adapter, &row.method)) {
            let verdict = if test.is_noise() { "noise" } else { "more than noise" };
            let points = signed(100.0 * test.difference, 2);
            parts.push(format!(
                "{} {points} points, {verdict} (p = {})",
                test.task,
                number::fixed(test.p_corrected, 3)
            ));
        }
        if let Some(speedup) = row.ratio(none, |run| run.summary.seconds) {
            parts.push(format!("{} of the time", number::fixed(1.0 / speedup, 2)));
        }
        if let Some(ratio) = row.ratio(none, flops) {
            parts.push(format!("{} of the FLOPs", number::fixed(1.0 / ratio, 2)));
        }
        let losses = pairs.iter().filter_map(|(run, none)| Some(run.summary.val_loss? - none.summary.val_loss?));
        let losses: Vec<f64> = losses.collect();
        if let Some(Mean { mean, .. }) = Mean::of(&losses) {
            let higher = losses.iter().filter(|loss| **loss > 0.0).count();
            let of = losses.len();
            parts.push(format!("validation loss {}, higher in {higher} of {of} seeds", signed(mean, 4)));
        }
        Some(format!("{}, {} against none: {}.", row.adapter, row.method, parts.join("; ")))
    }

    /// The result as JSON. Accuracies are shares from 0 to 1.
    #[must_use]
    pub fn json(&self) -> Value {
        let base = self.base.as_ref().map(|base| {
            let one = |value: Option<f64>| mean_json(&value.into_iter().collect::<Vec<_>>());
            let of = |task: &str| base.get(task).and_then(|answers| self.metric.accuracy(answers));
            let accuracy: serde_json::Map<_, _> =
                self.questions.iter().map(|(task, _)| (task.clone(), one(of(task)))).collect();
            json!({ "method": "base", "adapter": null, "accuracy": accuracy,
                    "average": one(average(self.metric, base)) })
        });
        let rows: Vec<Value> = base.into_iter().chain(self.rows.iter().map(|row| self.row_json(row))).collect();
        let tests = self.tests.iter().map(|test| {
            json!({ "adapter": test.adapter, "method": test.method, "against": BASELINE, "task": test.task,
                    "difference": test.difference, "seeds": test.seeds, "p": test.p, "p_corrected": test.p_corrected,
                    "noise": test.is_noise() })
        });
        let failed = self.failures.iter().map(|failure| json!({ "name": failure.name, "message": failure.message }));
        let questions: serde_json::Map<_, _> =
            self.questions.iter().map(|(task, count)| (task.clone(), json!(count))).collect();
        json!({ "metric": self.metric.name(), "questions": questions, "ratios_against": self.reference_name(), "rows": rows,
                "frontiers": self.frontiers_json(), "tests": tests.collect::<Vec<_>>(), "findings": self.findings(), "failed": failed.collect::<Vec<_>>() })
    }

    pub(super) fn row_json(&self, row: &Row) -> Value {
        let mean = |value: &dyn Fn(&Finished) -> f64| row.mean(|run| Some(value(run)));
        let accuracy: serde_json::Map<_, _> = self
            .questions
            .iter()
            .map(|(task, _)| (task.clone(), mean_json(&row.values(|run| self.of_task(run, task)))))
            .collect();
        let ratios = |other: Option<&Row>| {
            other.map_or((None, None), |other| {
                (row.ratio(other, |run| run.summary.seconds), row.ratio(other, flops).map(|ratio| 1.0 / ratio))
            })
        };
        let ((speedup, flops_ratio), (speedup_own, flops_ratio_own)) =
            (ratios(self.reference(row)), ratios(self.own(row)));
        let runs: Vec<Value> = row.runs.iter().map(|(seed, run)| json!({ "seed": seed, "run_dir": run.run })).collect();
        json!({
            "method": row.method,
            "adapter": row.adapter,
            "accuracy": accuracy,
            "average": mean_json(&row.values(|run| average(self.metric, &run.answers))),
            "excess": self.excess_json(row),
            "val_loss": mean_json(&row.values(|run| run.summary.val_loss)),
            "seconds": mean_json(&row.values(|run| Some(run.summary.seconds))),
            "validation_seconds": row.mean(|run| run.summary.validation_seconds),
            "monitor_seconds": mean(&|run| run.summary.monitor_seconds),
            "steps": mean(&|run| run.summary.steps as f64),
            "frozen_units": mean(&|run| run.summary.frozen_units as f64),
            "flops": mean(&flops),
            "validation_flops": mean(&|run| run.summary.validation_flops as f64),
            "monitor_flops": mean(&|run| run.summary.monitor_flops as f64),
            "monitor_bytes": mean(&|run| run.summary.monitor_bytes as f64),
            "flops_ratio": flops_ratio,
            "speedup": speedup,
            "flops_ratio_own": flops_ratio_own,
            "speedup_own": speedup_own,
            "peak_memory_bytes": peak(row),
            "runs": runs,
        })
    }

    /// The result as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        format!("# Comparison\n{}", self.sections())
    }

    /// The tables and findings as Markdown.
    pub(super) fn sections(&self) -> String {
        let section =
            |(title, table): (&str, Table)| format!("\n## {title}\n\n{}.\n\n{}", table.caption, table.markdown());
        let mut text: String = self.tables().into_iter().map(section).collect();
        text.push_str("\n## What was found\n\n");
        self.findings().iter().for_each(|finding| text.push_str(&format!("- {finding}\n")));
        text
    }

    /// The tables with their titles.
    pub(super) fn tables(&self) -> Vec<(&'static str, Table)> {
        let first = if self.questions.is_empty() { "Loss" } else { "Accuracy" };
        let mut tables = Vec::new();
        if !self.frontiers.is_empty() {
            tables.push(("Excess over the frontier", self.excess()));
        }
        tables.extend(self.controls_table().map(|table| ("Controls", table)));
        tables.extend([(first, self.accuracy()), ("Cost", self.cost())]);
        if !self.frontiers.is_empty() {
            tables.push(("The frontier", self.frontier_table()));
        }
        if !self.tests.is_empty() {
            tables.push(("Noise or not", self.tests_table()));
        }
        tables
    }

    /// The tables of the rows side by side as CSV: a row an adapter and method, accuracies as shares.
    #[must_use]
    pub fn csv(&self) -> String {
        let both = self.accuracy().beside(&self.cost(), 2);
        if self.frontiers.is_empty() { both.csv() } else { both.beside(&self.excess(), 2).csv() }
    }
}

/// Speedup and FLOPs ratio of a row.
fn ratios(row: &Row, other: &Row) -> [Cell; 2] {
    let ratio = row.ratio(other, flops).map(|ratio| 1.0 / ratio);
    [Cell::number(row.ratio(other, |run| run.summary.seconds), 2), Cell::number(ratio, 2)]
}

/// The most memory of any of its runs.
fn peak(row: &Row) -> Option<f64> {
    row.values(|run| run.summary.peak_memory_bytes.map(|bytes| bytes as f64)).into_iter().reduce(f64::max)
}

fn mean_json(values: &[f64]) -> Value {
    Mean::of(values).map_or(Value::Null, |Mean { mean, deviation }| json!({ "mean": mean, "std": deviation }))
}

fn signed(value: f64, decimals: usize) -> String {
    let text = number::fixed(value, decimals);
    if text.starts_with('−') || text.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
        text
    } else {
        format!("+{text}")
    }
}
