//! The figures in which runs lie over one another.

use std::collections::{BTreeMap, BTreeSet};

use grades::{Kind, Tower};
use serde_json::{Map, Value};

use crate::axis::Unit;
use crate::chart::Chart;
use crate::figure::Figure;
use crate::groups::{Cast, Line, Points};
use crate::number;
use crate::record::{Event, Step};
use crate::run::Run;
use crate::series::{Series, Weight};
use crate::svg::{self, Bar};
use crate::table::{Cell, Table};

/// The points of a line that a page holds for a closer look, at least and at most, and of a whole figure.
const DETAIL: [usize; 3] = [400, 4000, 24_000];

/// A figure of lines over the steps, with a row a step behind it.
pub(super) fn over_steps(name: impl Into<String>, note: &str, chart: Chart) -> Figure {
    let mut rows: BTreeMap<u64, Vec<Option<f64>>> = BTreeMap::new();
    let shown: Vec<&Series> = chart.series.iter().filter(|series| series.weight != Weight::Mean).collect();
    for (index, series) in shown.iter().enumerate() {
        for (step, value) in &series.points {
            let row = rows.entry(*step as u64).or_insert_with(|| vec![None; shown.len()]);
            row[index] = *value;
        }
    }
    let single = shown.len() == 1;
    let title = |series: &&Series| if single { chart.y.clone() } else { series.name.clone() };
    let columns = shown.iter().map(|series| (title(series), title(series)));
    let mut table = Table::new(&chart.title, [("step".to_owned(), "Step".to_owned())].into_iter().chain(columns));
    for (step, values) in rows {
        table.row([Cell::count(step)].into_iter().chain(values.into_iter().map(Cell::short)));
    }
    let detail = (DETAIL[2] / chart.series.len().max(1)).clamp(DETAIL[0], DETAIL[1]);
    Figure::of(name, note, Chart { detail: if chart.detail == 0 { detail } else { chart.detail }, ..chart }, table)
}

pub(super) fn chart(title: &str, y: &str, series: Vec<Series>, from_zero: bool, unit: Unit) -> Chart {
    let (title, x, y) = (title.to_owned(), "step".to_owned(), y.to_owned());
    Chart { title, x, y, x_unit: Unit::Steps, unit, series, from_zero, ..Chart::default() }
}

/// A value of every step.
fn of_steps(value: impl Fn(&Step) -> Option<f64>) -> impl Fn(&Run) -> Points {
    move |run| run.steps.iter().map(|step| (step.step as f64, value(step))).collect()
}

fn known(points: Vec<(f64, f64)>) -> Points {
    points.into_iter().map(|(x, y)| (x, Some(y))).collect()
}

/// The losses, training and validation in one figure.
pub(super) fn losses(cast: &Cast<'_>) -> Figure {
    let training = of_steps(|step| step.loss);
    let lines = [
        ("training", &training as Line<'_>),
        ("validation", &Run::validation_losses),
        ("validation of the average", &Run::average_losses),
    ];
    let series = cast.lines(&lines);
    let loss = chart("Loss", "loss per predicted token", series, false, Unit::Number);
    over_steps("loss", "", Chart { smooth: true, ..loss })
}

/// The same in two figures, where many lines would lie over one another; losses at the end alone make no figure.
pub(super) fn losses_apart(cast: &Cast<'_>) -> Vec<Figure> {
    let y = "loss per predicted token";
    let training = of_steps(|step| step.loss);
    let training = chart("Training loss", y, cast.lines(&[("", &training)]), false, Unit::Number);
    let validation = chart("Validation loss", y, validations(cast, |_, points| points), false, Unit::Number);
    let followed = validation.series.iter().any(|series| series.points.len() > 1);
    let mut figures = vec![over_steps("training-loss", "", Chart { smooth: true, ..training })];
    figures.extend(followed.then(|| over_steps("validation-loss", "", validation)));
    figures
}

/// Validation losses, and where a run kept an average of its weights those of it, as `placed` has them of each run.
fn validations(cast: &Cast<'_>, placed: impl Fn(&Run, Points) -> Points) -> Vec<Series> {
    let (weights, average) =
        (|run: &Run| placed(run, run.validation_losses()), |run: &Run| placed(run, run.average_losses()));
    let lines: [(&str, Line<'_>); 2] = [("", &weights), ("average", &average)];
    let kept = cast.runs.iter().any(|run| !run.average_losses().is_empty());
    cast.lines(if kept { &lines } else { &lines[..1] })
}

/// Validation losses over what training had cost by then: at equal arithmetic the lower line is the better run.
pub(super) fn validation_by_arithmetic(cast: &Cast<'_>) -> Figure {
    let executed = |run: &Run| -> BTreeMap<u64, f64> {
        run.executed_by_step().map(|(step, flops)| (step as u64, flops)).collect()
    };
    let placed = |run: &Run, points: Points| {
        let executed = executed(run);
        points.into_iter().filter_map(|(step, loss)| Some((*executed.get(&(step as u64))?, loss))).collect()
    };
    let title = "Validation loss by arithmetic";
    let mut chart = chart(title, "loss per predicted token", validations(cast, placed), false, Unit::Number);
    (chart.x, chart.x_unit) = ("operations executed".to_owned(), Unit::Flops);
    let columns = [
        ("run", "Run"),
        ("step", "Step"),
        ("executed", "Executed (FLOP)"),
        ("validation", "Validation loss"),
        ("average", "Of the average"),
    ];
    let mut table = Table::new(title, columns);
    for run in cast.runs {
        let executed = executed(run);
        let average: BTreeMap<u64, Option<f64>> =
            run.average_losses().into_iter().map(|(step, loss)| (step as u64, loss)).collect();
        for (step, loss) in run.validation_losses() {
            let of_average = average.get(&(step as u64)).copied().flatten();
            let cells = [Cell::text(&run.name), Cell::count(step as u64)];
            let flops = executed.get(&(step as u64)).copied();
            table.row(cells.into_iter().chain([flops, loss, of_average].map(Cell::short)));
        }
    }
    Figure::of("validation-by-arithmetic", "", chart, table)
}

/// What benchmarks are judged by, of runs that were scored while they trained.
pub(super) fn benchmarks(cast: &Cast<'_>) -> Option<Figure> {
    let names = distinct(cast.runs.iter().flat_map(Run::benchmarks));
    let of_task: Vec<_> = names.iter().map(|name| (*name, move |run: &Run| run.scores_of(name))).collect();
    let lines: Vec<(&str, Line<'_>)> = of_task.iter().map(|(name, line)| (*name, line as Line<'_>)).collect();
    let scores = chart("Benchmarks", "score", cast.lines(&lines), false, Unit::Number);
    (!names.is_empty()).then(|| over_steps("benchmarks", "", scores))
}

pub(super) fn learning_rate(cast: &Cast<'_>) -> Figure {
    let rate = of_steps(|step| Some(step.learning_rate));
    let rate = chart("Learning rate", "learning rate", cast.lines(&[("", &rate)]), true, Unit::Number);
    over_steps("learning-rate", "", rate)
}

pub(super) fn frozen_share(cast: &Cast<'_>) -> Figure {
    let share = |run: &Run| known(run.frozen_share());
    let all = chart("Frozen matrices", "share that is frozen", cast.lines(&[("", &share)]), true, Unit::Share);
    over_steps("frozen-share", "", all)
}

/// Attention against MLP, and tower against tower where there are several.
pub(super) fn freezing(cast: &Cast<'_>) -> Vec<Figure> {
    let by_kind = |points: &dyn Fn(&Run, Kind) -> Points| -> Vec<Series> {
        let of_kind = Kind::ALL.map(|kind| (kind.name(), move |run: &Run| points(run, kind)));
        let lines: Vec<(&str, Line<'_>)> = of_kind.iter().map(|(name, line)| (*name, line as Line<'_>)).collect();
        cast.lines(&lines)
    };
    let shares = by_kind(&|run, kind| known(run.frozen_share_of(kind)));
    let kinds = chart("Frozen matrices: attention against MLP", "share that is frozen", shares, true, Unit::Share);
    let means = by_kind(&|run, kind| run.mean_signal(kind));
    let means = chart("Mean signal: attention against MLP", "mean signal", means, false, Unit::Number);
    let mut figures = vec![
        over_steps("frozen-share-by-kind", "", kinds),
        over_steps("mean-signal-by-kind", "Over the matrices that still train.", means),
    ];
    figures.extend(by_tower(cast));
    figures
}

/// The same tower by tower, of runs that have several.
fn by_tower(cast: &Cast<'_>) -> Vec<Figure> {
    let several: Vec<(&Run, Vec<Tower>)> =
        cast.runs.iter().map(|run| (run, run.towers())).filter(|(_, towers)| towers.len() > 1).collect();
    if several.is_empty() {
        return Vec::new();
    }
    let all: BTreeSet<Tower> = several.iter().flat_map(|(_, towers)| towers.iter().copied()).collect();
    let series = |points: &dyn Fn(&Run, Tower) -> Points| -> Vec<Series> {
        let of_run = |run: &Run, tower| {
            let towers = run.towers();
            if towers.len() > 1 && towers.contains(&tower) { points(run, tower) } else { Points::new() }
        };
        let of_tower: Vec<_> = all.iter().map(|tower| (tower.name(), move |run: &Run| of_run(run, *tower))).collect();
        let lines: Vec<(&str, Line<'_>)> = of_tower.iter().map(|(name, line)| (*name, line as Line<'_>)).collect();
        cast.lines(&lines)
    };
    let shares = series(&|run, tower| known(run.frozen_share_where(|unit| unit.tower == tower)));
    let shares = chart("Frozen matrices: tower by tower", "share that is frozen", shares, true, Unit::Share);
    let means = series(&|run, tower| run.mean_signal_where(|unit| unit.tower == tower));
    let mut means = chart("Mean signal: tower by tower", "mean signal", means, false, Unit::Number);
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
pub(super) fn cost(cast: &Cast<'_>) -> Vec<Figure> {
    let seconds = of_steps(|step| Some(step.step_seconds));
    let time = chart("Time of a step", "time of a step", cast.lines(&[("", &seconds)]), true, Unit::Seconds);
    let process = of_steps(|step| step.resident_bytes.map(|bytes| bytes as f64));
    let optimizer = of_steps(|step| Some(step.optimizer_bytes as f64));
    let measuring = of_steps(|step| Some(step.kept_bytes as f64));
    let mut memory: Vec<(&str, Line<'_>)> = vec![("process", &process), ("optimizer", &optimizer)];
    if let [_] = cast.runs {
        memory.push(("measuring", &measuring));
    }
    let memory = chart("Memory", "bytes held", cast.lines(&memory), true, Unit::Bytes);
    let note = "The whole process; of it the optimizer's states, and what is kept for measuring.";
    vec![
        over_steps("step-time", "Without validation, with measuring.", Chart { smooth: true, ..time }),
        time_by_share(cast),
        over_steps("memory", if cast.runs.len() == 1 { note } else { "" }, memory),
        arithmetic(cast),
    ]
}

/// The time of a step against what was frozen while it ran.
fn time_by_share(cast: &Cast<'_>) -> Figure {
    let title = "Time of a step by frozen share";
    let series = |(place, run): (usize, &Run)| {
        let series = Series::points(cast.named(run, ""), known(run.seconds_by_share()));
        cast.dressed(series, place, "", None)
    };
    let mut chart =
        chart(title, "time of a step", cast.runs.iter().enumerate().map(series).collect(), true, Unit::Seconds);
    (chart.x, chart.x_unit) = ("share that is frozen".to_owned(), Unit::Share);
    let columns = [("run", "Run"), ("frozen_share", "Frozen share"), ("steps", "Steps"), ("seconds", "Median seconds")];
    let mut table = Table::new(title, columns);
    for run in cast.runs {
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
    Figure::of("step-time-by-frozen-share", "", chart, table)
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
fn arithmetic(cast: &Cast<'_>) -> Figure {
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
    for (place, run) in cast.runs.iter().enumerate() {
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
            let hue = if cast.runs.len() == 1 { 0 } else { cast.hue(place) };
            bars.push(Bar { name: cast.named(run, kind), solid: executed, outlined: saved, text, hue });
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
    Figure::fixed("arithmetic", title, note, svg::bars(title, &bars), table)
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
