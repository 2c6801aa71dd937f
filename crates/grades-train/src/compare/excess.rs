//! What a frontier says of the methods: tables and sentences.

use serde_json::{Value, json};

use super::control::Control;
use super::finished::Finished;
use super::frontier::{Excess, Frontier};
use super::outcome::{Comparison, LEVEL, Row, average, flops};
use grades_report::number;
use grades_report::table::{Cell, Mean, Table};

impl Comparison {
    fn frontier(&self, row: &Row) -> Option<&Frontier> {
        self.frontiers.iter().find(|frontier| frontier.adapter == row.adapter)
    }

    fn excess_of(&self, row: &Row) -> Option<Excess> {
        self.frontier(row)?.excess(&row.runs)
    }

    /// How far each row lies above the frontier.
    pub(super) fn excess(&self) -> Table {
        let columns = [
            ("adapter", "Adapter"),
            ("method", "Method"),
            ("excess", "Excess (nats)"),
            ("excess_error", "Standard error"),
            ("excess_p", "p"),
            ("excess_flops", "FLOPs"),
            ("excess_loss", "Validation loss"),
            ("excess_seeds", "Seeds"),
        ];
        let caption = "Excess: how far the validation loss at the end lies above the frontier of training without stopping, at the same \
                       FLOPs and with the same seed; below 0 is better than any schedule that was tried. p: Student's test, paired by seed";
        let mut table = Table::new(caption, columns);
        for row in &self.rows {
            let excess = self.excess_of(row);
            table.row([
                Cell::text(&row.adapter),
                Cell::text(&row.method),
                Cell::number(excess.as_ref().map(|excess| excess.mean), 4),
                Cell::number(excess.as_ref().and_then(|excess| excess.error), 4),
                Cell::number(excess.as_ref().and_then(|excess| excess.p), 3),
                Cell::short(row.mean(|run| Some(flops(run)))),
                Cell::mean(&row.values(|run| run.summary.val_loss), 4),
                Cell::count(excess.map_or(0, |excess| excess.by_seed.len() as u64)),
            ]);
        }
        table
    }

    /// The schedules that were run.
    pub(super) fn frontier_table(&self) -> Table {
        let columns = [
            ("adapter", "Adapter"),
            ("length", "Length"),
            ("learning_rate", "Learning rate"),
            ("val_loss", "Validation loss"),
            ("flops", "FLOPs"),
            ("seconds", "Time (s)"),
            ("seeds", "Seeds"),
            ("best", "Best of its length"),
        ];
        let caption = "Training without stopping: cosine schedules of shares of the planned length. With the first seed learning rates are \
                       tried from the best of the length before to both sides while they are better; the best is run with the other seeds";
        let mut table = Table::new(caption, columns);
        for frontier in &self.frontiers {
            let best = frontier.best();
            for point in &frontier.points {
                let values = |value: &dyn Fn(&Finished) -> Option<f64>| -> Vec<f64> {
                    point.runs.iter().filter_map(|(_, run)| value(run)).collect()
                };
                let is_best = best.iter().any(|best| std::ptr::eq(*best, point));
                table.row([
                    Cell::text(&frontier.adapter),
                    Cell::Number(point.length, 2),
                    Cell::text(format!("{:e}", point.learning_rate)),
                    Cell::mean(&values(&|run| run.summary.val_loss), 4),
                    Cell::short(Mean::of(&values(&|run| Some(flops(run)))).map(|mean| mean.mean)),
                    Cell::mean(&values(&|run| Some(run.summary.seconds)), 1),
                    Cell::count(point.runs.len() as u64),
                    Cell::text(if is_best { "yes" } else { "" }),
                ]);
            }
        }
        table
    }

    /// Each control with the method that it is a control of, and how much higher its loss is.
    fn controls(&self) -> Vec<(&Row, &Row, Excess)> {
        let of = |row: &Row| {
            let (_, of) = row.method.split_once(':').filter(|(kind, _)| Control::named(kind).is_some())?;
            self.rows.iter().find(|other| other.adapter == row.adapter && other.method == of)
        };
        let differences = |row: &'_ Row, of: &Row| {
            let of_seed = |seed: u64| of.runs.iter().find(|(other, _)| *other == seed)?.1.summary.val_loss;
            let pairs =
                row.runs.iter().filter_map(|(seed, run)| Some((*seed, run.summary.val_loss? - of_seed(*seed)?)));
            Excess::of(pairs.collect())
        };
        self.rows.iter().filter_map(|row| Some((row, of(row)?, differences(row, of(row)?)?))).collect()
    }

    /// The controls.
    pub(super) fn controls_table(&self) -> Option<Table> {
        let controls = self.controls();
        if controls.is_empty() {
            return None;
        }
        let columns = [
            ("adapter", "Adapter"),
            ("control", "Control"),
            ("difference", "Loss less its method's (nats)"),
            ("error", "Standard error"),
            ("p", "p"),
            ("flops_ratio", "FLOPs, to its method's"),
            ("seeds", "Seeds"),
        ];
        let caption = "Controls: what each method is held against, made from its runs. Above 0 the method has the lower validation loss. \
                       p: Student's test, paired by seed";
        let mut table = Table::new(caption, columns);
        for (row, of, difference) in controls {
            table.row([
                Cell::text(&row.adapter),
                Cell::text(&row.method),
                Cell::Number(difference.mean, 4),
                Cell::number(difference.error, 4),
                Cell::number(difference.p, 3),
                Cell::number(row.ratio(of, flops).map(|ratio| 1.0 / ratio), 3),
                Cell::count(difference.by_seed.len() as u64),
            ]);
        }
        Some(table)
    }

    /// What the frontier and the controls say, in words.
    pub(super) fn frontier_findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let chance = |p: Option<f64>| match p {
            Some(p) if p < LEVEL => format!("more than noise (p = {})", number::fixed(p, 3)),
            Some(p) => format!("noise (p = {})", number::fixed(p, 3)),
            None => "of one seed, so that chance is not known".to_owned(),
        };
        for row in self.rows.iter().filter(|row| self.frontier(row).is_some() && !row.runs.is_empty()) {
            findings.push(match self.excess_of(row) {
                Some(excess) => format!(
                    "{}, {}: {} nats {} the frontier of training without stopping at its own FLOPs, {}.",
                    row.adapter,
                    row.method,
                    number::fixed(excess.mean.abs(), 4),
                    if excess.mean > 0.0 { "above" } else { "below" },
                    chance(excess.p)
                ),
                None => format!(
                    "{}, {}: it costs less than the shortest schedule of the frontier; give shorter --frontier-lengths.",
                    row.adapter, row.method
                ),
            });
        }
        for (row, of, difference) in self.controls() {
            findings.push(format!(
                "{}, {}: its loss is {} nats {} than that of {}, {}.",
                row.adapter,
                row.method,
                number::fixed(difference.mean.abs(), 4),
                if difference.mean > 0.0 { "higher" } else { "lower" },
                of.method,
                chance(difference.p)
            ));
        }
        findings.extend(self.frontiers.iter().flat_map(edges));
        findings
    }

    /// The frontiers as JSON.
    pub(super) fn frontiers_json(&self) -> Value {
        let point = |frontier: &Frontier, point: &super::frontier::Point| {
            let runs: Vec<Value> = point
                .runs
                .iter()
                .map(|(seed, run)| {
                    json!({ "seed": seed, "run_dir": run.run, "val_loss": run.summary.val_loss, "flops": flops(run),
                            "seconds": run.summary.seconds, "average": average(self.metric, &run.answers) })
                })
                .collect();
            let best = frontier.best().iter().any(|best| std::ptr::eq(*best, point));
            json!({ "length": point.length, "learning_rate": point.learning_rate, "best": best, "runs": runs })
        };
        let all = self.frontiers.iter().map(|frontier| {
            let points: Vec<Value> = frontier.points.iter().map(|of| point(frontier, of)).collect();
            json!({ "adapter": frontier.adapter, "points": points })
        });
        all.collect()
    }

    /// The excess of a row as JSON.
    pub(super) fn excess_json(&self, row: &Row) -> Value {
        self.excess_of(row).map_or(Value::Null, |excess| {
            json!({ "mean": excess.mean, "standard_error": excess.error, "p": excess.p,
                    "by_seed": excess.by_seed.iter().map(|(seed, nats)| json!({ "seed": seed, "nats": nats })).collect::<Vec<_>>() })
        })
    }
}

/// A rate that is best at the edge of the grid may not be the best there is.
fn edges(frontier: &Frontier) -> Vec<String> {
    let mut findings = Vec::new();
    for best in frontier.best() {
        let of_length = || frontier.points.iter().filter(|point| point.length == best.length).map(|p| p.learning_rate);
        let all = || frontier.points.iter().map(|point| point.learning_rate);
        let (lowest, highest) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        let edge = match best.learning_rate {
            _ if of_length().count() < 2 => continue,
            rate if rate == highest => "highest",
            rate if rate == lowest => "lowest",
            _ => continue,
        };
        findings.push(format!(
            "{}: at {} of the length the best learning rate, {:e}, is the {edge} that was tried: the frontier may lie lower; give more \
             --frontier-rates.",
            frontier.adapter,
            number::fixed(best.length, 2),
            best.learning_rate
        ));
    }
    findings
}
