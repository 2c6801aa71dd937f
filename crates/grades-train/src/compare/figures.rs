//! The figures of a comparison: what each method came to by what it cost, and its runs over one another.

use super::finished::Finished;
use super::outcome::{Comparison, Row, average, flops};
use grades_report::svg::{self, Bar};
use grades_report::table::{Cell, Mean, Table};
use grades_report::{self as report, Chart, Figure, Group, Look, Run, Series, Spread, Unit, number};

/// Methods that one figure can tell apart.
const MOST_OVERLAID: usize = 6;

/// What training without stopping is called.
const FRONTIER: &str = "without stopping";

/// A number of a run, what it is, and its unit.
struct Measure<'a> {
    name: &'static str,
    title: &'static str,
    unit: Unit,
    value: &'a dyn Fn(&Finished) -> Option<f64>,
}

impl Comparison {
    /// The colour of a method, the same with every adapter and in every figure.
    fn hue(&self, method: &str) -> usize {
        let mut methods: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !methods.contains(&row.method.as_str()) {
                methods.push(&row.method);
            }
        }
        methods.iter().position(|of| *of == method).unwrap_or(methods.len())
    }

    /// The adapters, in the order of the rows.
    fn adapters(&self) -> Vec<&str> {
        let mut adapters: Vec<&str> = self.rows.iter().map(|row| row.adapter.as_str()).collect();
        adapters.dedup();
        adapters
    }

    /// Accuracy and validation loss against time and arithmetic: means over the seeds with their deviations both ways, and the
    /// frontier where it was run. What no run has makes no figure.
    pub(super) fn against_cost(&self) -> Vec<Figure> {
        let accuracy = |run: &Finished| average(self.metric, &run.answers);
        let results = [
            Measure { name: "accuracy", title: "Accuracy", unit: Unit::Share, value: &accuracy },
            Measure { name: "loss", title: "Validation loss", unit: Unit::Number, value: &|run| run.summary.val_loss },
        ];
        let costs = [
            Measure { name: "time", title: "time", unit: Unit::Seconds, value: &|run| Some(run.summary.seconds) },
            Measure { name: "flops", title: "arithmetic", unit: Unit::Flops, value: &|run| Some(flops(run)) },
        ];
        let mut figures = Vec::new();
        for adapter in self.adapters() {
            for cost in &costs {
                let of_cost = results.iter().map(|result| self.figure(adapter, result, cost));
                figures.extend(of_cost.filter(|figure| !figure.is_empty()));
            }
        }
        figures
    }

    fn figure(&self, adapter: &str, result: &Measure<'_>, cost: &Measure<'_>) -> Figure {
        let of = if self.has_adapters() { format!(", {adapter}") } else { String::new() };
        let title = format!("{} against {}{of}", result.title, cost.title);
        let columns = [
            ("name", "Name"),
            ("cost", cost.title),
            ("cost_deviation", "Deviation"),
            ("value", result.title),
            ("value_deviation", "Deviation"),
            ("seeds", "Seeds"),
        ];
        let mut table = Table::new(&title, columns);
        let mut place = |name: &str, runs: &[(u64, Finished)]| {
            let spread = spread(runs, result, cost)?;
            let half = |ends: Option<[f64; 2]>| ends.map(|[low, high]| 0.5 * (high - low));
            table.row([
                Cell::text(name),
                Cell::Quantity(spread.at.0, cost.unit),
                Cell::quantity(half(spread.x), cost.unit),
                Cell::Quantity(spread.at.1, result.unit),
                Cell::quantity(half(spread.y), result.unit),
                Cell::count(runs.len() as u64),
            ]);
            Some(spread)
        };
        let point = |spread: &Spread| (spread.at.0, Some(spread.at.1));
        let mut series = Vec::new();
        if let Some(frontier) = self.frontiers.iter().find(|frontier| frontier.adapter == adapter) {
            let spreads: Vec<Spread> =
                frontier.best().into_iter().filter_map(|point| place(FRONTIER, &point.runs)).collect();
            let line = Series::line(FRONTIER, spreads.iter().map(point).collect()).with_spreads(spreads);
            series.push(line.with_look(Look::nth(self.hue(FRONTIER))));
        }
        for row in self.rows.iter().filter(|row| row.adapter == adapter) {
            if let Some(spread) = place(&row.method, &row.runs) {
                let points = Series::points(&row.method, vec![point(&spread)]).with_spreads(vec![spread]);
                series.push(points.with_look(Look::nth(self.hue(&row.method))));
            }
        }
        let frontier = "The line: schedules without stopping, at the best rate of each length, where they were run.";
        let has_frontier = series.first().is_some_and(|series| series.name == FRONTIER);
        let note =
            "Means over the seeds, bars of one deviation. ".to_owned() + if has_frontier { frontier } else { "" };
        let chart = Chart {
            title,
            x: cost.title.to_owned(),
            y: result.title.to_lowercase(),
            x_unit: cost.unit,
            unit: result.unit,
            series,
            ..Chart::default()
        };
        let name = format!("{adapter}-{}-{}", result.name, cost.name);
        Figure::of(name, note.trim_end(), chart, table)
    }

    /// Seconds of each row.
    pub(super) fn time(&self) -> Figure {
        let bar = |row: &Row| {
            let mean = |value: &dyn Fn(&Finished) -> f64| row.mean(|run| Some(value(run))).unwrap_or(0.0);
            let outlined = mean(&|run| run.summary.validation_seconds.unwrap_or(0.0) + run.summary.monitor_seconds);
            let all = mean(&|run| run.summary.seconds);
            let text =
                format!("{}, {} of it validation and monitoring", number::seconds(all), number::seconds(outlined));
            let name = format!("{} {}", row.adapter, row.method);
            Bar { name, solid: all - outlined, outlined, text, hue: self.hue(&row.method) }
        };
        let bars: Vec<Bar> = self.rows.iter().filter(|row| !row.runs.is_empty()).map(bar).collect();
        let note = "Mean over the seeds. Solid: training. Outlined: validation and monitoring.";
        Figure::fixed("time", "Time", note, svg::bars("Time", &bars), self.cost())
    }

    /// Loss, learning rate and frozen share of the runs of each adapter over one another, with the clocks that they need: HTML
    /// and figures.
    pub(super) fn overlays(&self) -> (String, Vec<Figure>) {
        let (mut clocks, mut figures, mut first) = (String::new(), Vec::new(), 0);
        for adapter in self.adapters() {
            let (mut runs, mut groups) = (Vec::new(), Vec::new());
            for row in self.rows.iter().filter(|row| row.adapter == adapter).take(MOST_OVERLAID) {
                let before = runs.len();
                for (place, (_, run)) in row.runs.iter().enumerate() {
                    // The signals of one seed say enough, and those of all may not fit in memory.
                    let read = if place == 0 { Run::read } else { Run::read_without_signals };
                    // The figures are beside the result: a run whose logs cannot be read is left out of them.
                    runs.extend(read(&run.run));
                }
                let places = (before..runs.len()).collect();
                groups.push(Group { name: row.method.clone(), hue: self.hue(&row.method), runs: places });
            }
            if runs.is_empty() {
                continue;
            }
            let of = if self.has_adapters() { format!(", {adapter}") } else { String::new() };
            figures.extend(report::overlay(&runs, &groups, first).into_iter().map(|figure| {
                let seed = if figure.name.contains("signal") { ", first seed" } else { "" };
                let (name, title) = (format!("{adapter}-{}", figure.name), format!("{}{of}{seed}", figure.title));
                Figure { name, title, ..figure }
            }));
            clocks.push_str(&report::clocks(&runs));
            first += runs.len();
        }
        (clocks, figures)
    }
}

/// The means of a result and a cost of some runs, with bars of one deviation to both sides where there are several runs.
fn spread(runs: &[(u64, Finished)], result: &Measure<'_>, cost: &Measure<'_>) -> Option<Spread> {
    let finite = |pair: &(f64, f64)| pair.0.is_finite() && pair.1.is_finite();
    let pair = |run: &Finished| Some(((cost.value)(run)?, (result.value)(run)?)).filter(finite);
    let (costs, results): (Vec<f64>, Vec<f64>) = runs.iter().filter_map(|(_, run)| pair(run)).unzip();
    let (cost, result) = (Mean::of(&costs)?, Mean::of(&results)?);
    let ends = |of: Mean| of.deviation.map(|deviation| [of.mean - deviation, of.mean + deviation]);
    Some(Spread { at: (cost.mean, result.mean), x: ends(cost), y: ends(result) })
}
