//! The figures in which runs lie over one another.

use std::collections::{BTreeMap, BTreeSet};

use grades::{Kind, Tower};
use serde_json::{Map, Value};

use crate::figure::Figure;
use crate::number;
use crate::record::{Event, Step};
use crate::run::Run;
use crate::svg::{self, Bar, Chart, Series};
use crate::table::{Cell, Table};

type Points = Vec<(f64, Option<f64>)>;

/// A figure of lines over the steps, with a row a step behind it.
pub(super) fn over_steps(name: impl Into<String>, note: &str, chart: Chart) -> Figure {
    let mut rows: BTreeMap<u64, Vec<Option<f64>>> = BTreeMap::new();
    for (index, series) in chart.series.iter().enumerate() {
        for (step, value) in &series.points {
            let row = rows.entry(*step as u64).or_insert_with(|| vec![None; chart.series.len()]);
            row[index] = *value;
        }
    }
    let single = chart.series.len() == 1;
    let title = |series: &Series| if single { chart.y.clone() } else { series.name.clone() };
    let columns = chart.series.iter().map(|series| (title(series), title(series)));
    let mut table = Table::new(&chart.title, [("step".to_owned(), "Step".to_owned())].into_iter().chain(columns));
    for (step, values) in rows {
        table.row([Cell::count(step)].into_iter().chain(values.into_iter().map(Cell::short)));
    }
    Figure { name: name.into(), title: chart.title.clone(), note: note.to_owned(), svg: chart.svg(), table }
}

pub(super) fn chart(title: &str, y: &str, series: Vec<Series>, from_zero: bool, format: fn(f64) -> String) -> Chart {
    let (title, x, y) = (title.to_owned(), "step".to_owned(), y.to_owned());
    Chart { title, x, y, series, guides: Vec::new(), from_zero, format }
}

fn bytes(value: f64) -> String {
    number::with_unit(value, "B")
}

/// What a series of a run is called: what it shows, where there is only this run.
fn named(runs: &[Run], run: &Run, what: &str) -> String {
    match (runs.len(), what) {
        (1, what) => what.to_owned(),
        (_, "") => run.name.clone(),
        (_, what) => format!("{} {what}", run.name),
    }
}

/// A line for each run.
fn each(runs: &[Run], what: &str, value: impl Fn(&Step) -> Option<f64>) -> Vec<Series> {
    let points = |run: &Run| run.steps.iter().map(|step| (step.step as f64, value(step))).collect::<Points>();
    runs.iter().map(|run| Series::line(named(runs, run, what), points(run))).collect()
}

fn known(points: Vec<(f64, f64)>) -> Points {
    points.into_iter().map(|(x, y)| (x, Some(y))).collect()
}

/// Loss and learning rate.
pub(super) fn progress(runs: &[Run]) -> Vec<Figure> {
    let mut losses = each(runs, "training", |step| step.loss);
    for run in runs {
        let points = run.validation_losses();
        if !points.is_empty() {
            losses.push(Series::line(named(runs, run, "validation"), points));
        }
    }
    let loss = chart("Loss", "loss per predicted token", losses, false, number::short);
    let rate = each(runs, "", |step| Some(step.learning_rate));
    let rate = chart("Learning rate", "learning rate", rate, true, number::short);
    vec![over_steps("loss", "", loss), over_steps("learning-rate", "", rate)]
}

/// Frozen shares, and attention against MLP.
pub(super) fn freezing(runs: &[Run]) -> Vec<Figure> {
    let shares = runs.iter().map(|run| Series::line(named(runs, run, ""), known(run.frozen_share()))).collect();
    let all = chart("Frozen matrices", "share that is frozen", shares, true, number::percent);
    let by_kind = |points: &dyn Fn(&Run, Kind) -> Points| -> Vec<Series> {
        let series = |run, kind: Kind| Series::line(named(runs, run, kind.name()), points(run, kind));
        runs.iter().flat_map(|run| Kind::ALL.map(|kind| series(run, kind))).collect()
    };
    let shares = by_kind(&|run, kind| known(run.frozen_share_of(kind)));
    let kinds = chart("Frozen matrices: attention against MLP", "share that is frozen", shares, true, number::percent);
    let means = by_kind(&|run, kind| run.mean_signal(kind));
    let means = chart("Mean signal: attention against MLP", "mean signal", means, false, number::short);
    let mut figures = vec![
        over_steps("frozen-share", "", all),
        over_steps("frozen-share-by-kind", "", kinds),
        over_steps("mean-signal-by-kind", "Over the matrices that still train.", means),
    ];
    figures.extend(by_tower(runs));
    figures
}

/// The same tower by tower, of runs that have several.
fn by_tower(runs: &[Run]) -> Vec<Figure> {
    let several: Vec<(&Run, Vec<Tower>)> =
        runs.iter().map(|run| (run, run.towers())).filter(|(_, towers)| towers.len() > 1).collect();
    if several.is_empty() {
        return Vec::new();
    }
    let series = |points: &dyn Fn(&Run, Tower) -> Points| -> Vec<Series> {
        let of_run = |(run, towers): &(&Run, Vec<Tower>)| {
            let line = |tower: &Tower| Series::line(named(runs, run, tower.name()), points(run, *tower));
            towers.iter().map(line).collect::<Vec<_>>()
        };
        several.iter().flat_map(of_run).collect()
    };
    let shares = series(&|run, tower| known(run.frozen_share_where(|unit| unit.tower == tower)));
    let shares = chart("Frozen matrices: tower by tower", "share that is frozen", shares, true, number::percent);
    let means = series(&|run, tower| run.mean_signal_where(|unit| unit.tower == tower));
    let mut means = chart("Mean signal: tower by tower", "mean signal", means, false, number::short);
    if let [(run, towers)] = several.as_slice() {
        means.guides = towers.iter().filter_map(|tower| guide(run, *tower)).collect();
    }
    vec![
        over_steps("frozen-share-by-tower", "", shares),
        over_steps("mean-signal-by-tower", "Over the matrices that still train; dotted the thresholds τ.", means),
    ]
}

/// The threshold of a tower whose matrices have one in common.
fn guide(run: &Run, tower: Tower) -> Option<(f64, String)> {
    let of_tower = run.units.units.iter().filter(|unit| unit.unit.tower == tower);
    let mut thresholds = of_tower.map(|unit| unit.threshold);
    let first = thresholds.next()??;
    let is_common = thresholds.all(|threshold| threshold == Some(first));
    is_common.then(|| (first, format!("τ of {} = {}", tower.name(), number::short(first))))
}

/// Time, memory, arithmetic.
pub(super) fn cost(runs: &[Run]) -> Vec<Figure> {
    let seconds = each(runs, "", |step| Some(step.step_seconds));
    let time = chart("Time of a step", "seconds", seconds, true, number::short);
    let mut memory = each(runs, "process", |step| step.resident_bytes.map(|bytes| bytes as f64));
    memory.extend(each(runs, "optimizer", |step| Some(step.optimizer_bytes as f64)));
    if let [_] = runs {
        memory.extend(each(runs, "measuring", |step| Some(step.kept_bytes as f64)));
    }
    let memory = chart("Memory", "bytes held", memory, true, bytes);
    let note = "The whole process; of it the optimizer's states, and what is kept for measuring.";
    vec![
        over_steps("step-time", "Without validation, with measuring.", time),
        time_by_share(runs),
        over_steps("memory", if runs.len() == 1 { note } else { "" }, memory),
        arithmetic(runs),
    ]
}

/// The time of a step against what was frozen while it ran.
fn time_by_share(runs: &[Run]) -> Figure {
    let title = "Time of a step by frozen share";
    let series = |run: &Run| Series::points(named(runs, run, ""), known(run.seconds_by_share()));
    let mut chart = chart(title, "seconds", runs.iter().map(series).collect(), true, number::short);
    chart.x = "share that is frozen".to_owned();
    let columns = [("run", "Run"), ("frozen_share", "Frozen share"), ("steps", "Steps"), ("seconds", "Median seconds")];
    let mut table = Table::new(title, columns);
    for run in runs {
        let mut groups: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (share, seconds) in run.seconds_by_share() {
            // Shares are from 0 to 1, where the order of the bits is that of the numbers.
            groups.entry(share.to_bits()).or_default().push(seconds);
        }
        for (share, mut seconds) in groups {
            let (share, steps) = (f64::from_bits(share), Cell::count(seconds.len() as u64));
            table.row([Cell::text(&run.name), Cell::short(Some(share)), steps, Cell::short(median(&mut seconds))]);
        }
    }
    Figure {
        name: "step-time-by-frozen-share".into(),
        title: title.into(),
        note: String::new(),
        svg: chart.svg(),
        table,
    }
}

pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[half]),
        _ => Some(0.5 * (values[half - 1] + values[half])),
    }
}

/// Operations by kind, executed and saved.
fn arithmetic(runs: &[Run]) -> Figure {
    let title = "Arithmetic";
    let columns = [
        ("run", "Run"),
        ("kind", "Kind"),
        ("executed", "Executed (FLOP)"),
        ("unfrozen_estimate", "With nothing frozen (estimate)"),
        ("saved_estimate", "Saved (estimate)"),
    ];
    let mut table = Table::new(title, columns);
    let mut bars = Vec::new();
    for run in runs {
        let arithmetic = run.arithmetic();
        let mut row = |kind: &str, executed: f64, unfrozen: f64| {
            let saved = (unfrozen - executed).max(0.0);
            let cells = [Cell::text(&run.name), Cell::text(kind)];
            table.row(cells.into_iter().chain([executed, unfrozen, saved].map(|value| Cell::short(Some(value)))));
            let flop = |value| number::with_unit(value, "FLOP");
            let text = match saved {
                // Less than the estimate is good for.
                saved if saved < 0.005 * unfrozen => flop(executed),
                saved if executed == 0.0 => format!("≈ {} saved", flop(saved)),
                saved => format!("{}, ≈ {} saved", flop(executed), flop(saved)),
            };
            bars.push(Bar { name: named(runs, run, kind), solid: executed, outlined: saved, text });
        };
        for (index, kind) in ["forward", "input gradients", "weight gradients"].into_iter().enumerate() {
            row(kind, arithmetic.executed[index], arithmetic.unfrozen[index]);
        }
        if arithmetic.not_made > 0.0 {
            row("steps not made", 0.0, arithmetic.not_made);
        }
    }
    let note = "Solid: executed. Outlined: saved, an estimate: the operations per token up to and including the first step \
                that froze something, times all tokens, less what was executed. Steps that were not made count as steps of \
                that mean size.";
    Figure { name: "arithmetic".into(), title: title.into(), note: note.into(), svg: svg::bars(title, &bars), table }
}

/// What the runs came to: a row a measure, a column a run.
pub(super) fn summary(runs: &[Run]) -> Table {
    let columns = runs.iter().enumerate().map(|(index, run)| (format!("run{}", index + 1), run.name.clone()));
    let mut table = Table::new("What the runs came to", [("measure".into(), String::new())].into_iter().chain(columns));
    let mut row = |title: &str, value: &dyn Fn(&Run) -> Option<String>| {
        let cells = runs.iter().map(|run| value(run).map_or(Cell::Empty, Cell::Text));
        table.row([Cell::text(title)].into_iter().chain(cells));
    };
    let last = |run: &Run| run.steps.last().cloned();
    row("Method", &|run| run.units.method.clone());
    row("Steps", &|run| {
        let made = last(run).map_or(0, |step| step.step);
        Some(run.environment.planned_steps.map_or_else(|| made.to_string(), |planned| format!("{made} of {planned}")))
    });
    row("Stopped by", &|run| run.stopped_by().map(|reason| reason.replace('_', " ")));
    row("Frozen matrices", &|run| Some(format!("{} of {}", last(run)?.frozen_units, run.unit_count())));
    row("Training loss, mean", &|run| {
        let losses: Vec<f64> = run.steps.iter().filter_map(|step| step.loss).collect();
        (!losses.is_empty()).then(|| number::fixed(losses.iter().sum::<f64>() / losses.len() as f64, 4))
    });
    row("Validation loss, at the end", &|run| Some(number::fixed(run.summary.as_ref()?.val_loss?, 4)));
    row("Validation loss, best seen", &|run| {
        let losses = run.validation_losses().into_iter().filter_map(|(_, loss)| loss);
        losses.min_by(f64::total_cmp).map(|loss| number::fixed(loss, 4))
    });
    row("Time", &|run| Some(number::seconds(last(run)?.seconds)));
    row("… of it validation", &|run| Some(number::seconds(run.summary.as_ref()?.validation_seconds?)));
    row("… of it measuring", &|run| Some(number::seconds(run.steps.iter().map(|step| step.monitor_seconds).sum())));
    row("Tokens", &|run| Some(last(run)?.tokens.to_string()));
    row("Arithmetic", &|run| Some(number::with_unit(run.arithmetic().executed.iter().sum(), "FLOP")));
    row("Peak memory", &|run| Some(bytes(run.summary.as_ref()?.peak_memory_bytes? as f64)));
    row("Processor", &|run| {
        let processor = run.environment.processor.clone()?;
        Some(run.environment.threads.map_or(processor.clone(), |threads| format!("{processor}, {threads} threads")))
    });
    table
}

/// The events of a run.
pub(super) fn events(run: &Run) -> Table {
    const TOLD: [&str; 3] = ["event", "step", "signal"];
    let columns = [("step", "Step"), ("event", "Event"), ("what", "What"), ("signal", "Signal")];
    let mut table = Table::new("Events", columns);
    for event in run.events.iter().map(fields) {
        let what: Vec<String> = event.iter().filter(|(key, _)| !TOLD.contains(&key.as_str())).map(told).collect();
        let number = |key: &str| event.get(key).and_then(Value::as_f64);
        table.row([
            Cell::number(number("step"), 0),
            Cell::text(event.get("event").and_then(Value::as_str).unwrap_or_default().replace('_', " ")),
            Cell::text(what.join(", ")),
            Cell::short(number("signal")),
        ]);
    }
    table
}

/// An event with the names of its parts, as its line has them.
fn fields(event: &Event) -> Map<String, Value> {
    match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn told((key, value): (&String, &Value)) -> String {
    match value {
        Value::String(text) if key == "unit" => text.clone(),
        Value::String(text) => format!("{key} {text}"),
        value => format!("{key} {value}"),
    }
}

/// The distinct values of some, in order.
pub(super) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<BTreeSet<T>>().into_iter().collect()
}
