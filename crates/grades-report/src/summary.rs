//! What runs came to, at the top of a page: of one run whether it worked, what froze and what that saved; of several a table.

use std::fmt::Write as _;

use crate::axis::Unit;
use crate::number;
use crate::page::escape;
use crate::run::{Arithmetic, Run};
use crate::table::{Cell, Table};

/// What the top of a page says: a title, a number, and what it means.
type Fact = (&'static str, String, String);

/// Facts about a run, and behind them everything that was counted.
pub(super) fn facts(run: &Run) -> String {
    let facts = [validation(run), training(run), frozen(run), steps(run), arithmetic(run), time(run), memory(run)];
    let mut html = String::from("<dl class=\"facts\">\n");
    for (title, value, note) in facts.into_iter().flatten() {
        let (value, note) = (escape(&value), escape(&note));
        let _ = writeln!(html, "<div><dt>{title}</dt><dd><b>{value}</b> {note}</dd></div>");
    }
    let all = measures(run).html();
    let _ = write!(html, "</dl>\n<details><summary>All that was counted</summary>\n{all}</details>\n");
    html
}

fn loss(value: f64) -> String {
    number::fixed(value, 4)
}

fn validation(run: &Run) -> Option<Fact> {
    let losses: Vec<(f64, f64)> = run.validation_losses().into_iter().filter_map(|(x, y)| Some((x, y?))).collect();
    let best = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let (first, last) = (losses.first()?, losses.last()?);
    let title = "Validation loss";
    if losses.len() == 1 {
        return Some((title, loss(last.1), format!("after step {:.0}, the only one measured", last.0)));
    }
    let note = match best.1 < last.1 {
        true => format!("after step {:.0}; the lowest was {} after step {:.0}", last.0, loss(best.1), best.0),
        false => format!("after step {:.0}, the lowest that was seen", last.0),
    };
    Some((title, format!("{} → {}", loss(first.1), loss(last.1)), note))
}

fn training(run: &Run) -> Option<Fact> {
    let losses: Vec<f64> = run.steps.iter().filter_map(|step| step.loss).collect();
    let tenth = losses.len().div_ceil(10);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let title = "Training loss";
    match losses.len() {
        0 => None,
        1..20 => Some((title, loss(*losses.last()?), "of the last step".to_owned())),
        _ => {
            let (first, last) = (mean(&losses[..tenth]), mean(&losses[losses.len() - tenth..]));
            Some((
                title,
                format!("{} → {}", loss(first), loss(last)),
                "means of the first and last tenth of the steps".into(),
            ))
        }
    }
}

fn frozen(run: &Run) -> Option<Fact> {
    let (frozen, units) = (run.steps.last()?.frozen_units, run.unit_count());
    let mut at: Vec<(usize, String)> =
        run.frozen_at().into_iter().map(|(unit, step)| (step, unit.to_string())).collect();
    at.sort();
    let note = match at.as_slice() {
        [] if units == 0 => return None,
        [] => "nothing froze".to_owned(),
        [(step, unit)] => format!("{unit} at step {step}"),
        [(first, unit), .., (last, _)] if first == last => format!("all at step {first}, {unit} among them"),
        [(first, unit), .., (last, _)] => {
            let half = at
                .get(units.div_ceil(2) - 1)
                .filter(|(step, _)| step < last)
                .map_or(String::new(), |(step, _)| format!(", half of all by step {step}"));
            format!("the first at step {first} ({unit}){half}, the last at step {last}")
        }
    };
    Some(("Frozen matrices", format!("{frozen} of {units}"), note))
}

fn steps(run: &Run) -> Option<Fact> {
    let made = run.steps.last()?.step;
    let planned = run.environment.planned_steps;
    let value = planned.map_or_else(|| made.to_string(), |planned| format!("{made} of {planned}"));
    let note = match (&run.summary, run.stopped_by()) {
        (None, _) => "it goes on, or was interrupted".to_owned(),
        (_, None) => "made to the end".to_owned(),
        (_, Some(reason)) => format!("ended early: {}", reason.replace('_', " ")),
    };
    Some(("Steps", value, note))
}

fn arithmetic(run: &Run) -> Option<Fact> {
    let Arithmetic { executed, unfrozen, not_made } = run.arithmetic();
    let sum = |of: [f64; 3]| of.iter().sum::<f64>();
    let (executed, frozen) = (sum(executed), (sum(unfrozen) - sum(executed)).max(0.0));
    if executed <= 0.0 {
        return None;
    }
    let all = executed + frozen + not_made;
    let flop = |value| number::with_unit(value, "FLOP");
    let share = |value: f64| number::percent((100.0 * value / all).round() / 100.0);
    let note = match [not_made, frozen].map(|saved| saved >= 0.005 * all) {
        [false, false] => "nothing saved".to_owned(),
        [true, false] => format!("≈ {} saved ({}) by ending early", flop(not_made), share(not_made)),
        [false, true] => format!("≈ {} saved ({}) by freezing", flop(frozen), share(frozen)),
        [true, true] => {
            let saved = frozen + not_made;
            format!(
                "≈ {} saved ({}): {} by ending early, {} by freezing",
                flop(saved),
                share(saved),
                share(not_made),
                share(frozen)
            )
        }
    };
    Some(("Arithmetic", flop(executed), note))
}

fn time(run: &Run) -> Option<Fact> {
    let seconds = run.steps.last()?.seconds;
    let validation =
        run.summary.as_ref().and_then(|summary| summary.validation_seconds).filter(|seconds| *seconds > 0.0);
    let measuring: f64 = run.steps.iter().map(|step| step.monitor_seconds).sum();
    let parts: Vec<String> = [(validation, "validation"), (Some(measuring), "measuring")]
        .into_iter()
        .filter_map(|(seconds, what)| Some(format!("{} {what}", number::seconds(seconds?))))
        .collect();
    let beside = run.summary.as_ref().and_then(|summary| summary.evaluation_seconds);
    let beside = beside
        .map_or(String::new(), |seconds| format!("; beside it {} of answers and benchmarks", number::seconds(seconds)));
    Some(("Time", number::seconds(seconds), format!("of it {}{beside}", parts.join(", "))))
}

fn memory(run: &Run) -> Option<Fact> {
    let summary = run.summary.as_ref()?;
    let planned = run.environment.planned_memory_bytes;
    let note = planned.map_or("the most that was held".to_owned(), |bytes| {
        format!("the most that was held; planned {}", Unit::Bytes.text(bytes as f64))
    });
    Some(("Memory", Unit::Bytes.text(summary.peak_memory_bytes? as f64), note))
}

/// A number of a run.
type Measure = (&'static str, &'static str, fn(&Run) -> Cell);

/// What is counted of a run: key, title, value.
const MEASURES: [Measure; 14] = [
    ("method", "Method", |run| run.units.method.clone().map_or(Cell::Empty, Cell::Text)),
    ("val_loss", "Validation loss", |run| Cell::number(run.summary.as_ref().and_then(|summary| summary.val_loss), 4)),
    ("best_val_loss", "Validation loss, best seen", |run| {
        let losses = run.validation_losses().into_iter().filter_map(|(_, loss)| loss);
        Cell::number(losses.min_by(f64::total_cmp), 4)
    }),
    ("seconds", "Time", |run| Cell::quantity(run.steps.last().map(|step| step.seconds), Unit::Seconds)),
    ("flops", "Arithmetic", |run| Cell::Quantity(run.arithmetic().executed.iter().sum(), Unit::Flops)),
    ("steps", "Steps", |run| Cell::count(run.steps.last().map_or(0, |step| step.step) as u64)),
    ("frozen_units", "Frozen matrices", |run| Cell::number(run.steps.last().map(|step| step.frozen_units as f64), 0)),
    ("stopped_by", "Stopped by", |run| {
        run.stopped_by().map_or(Cell::Empty, |reason| Cell::text(reason.replace('_', " ")))
    }),
    ("train_loss", "Training loss, mean", |run| {
        let losses: Vec<f64> = run.steps.iter().filter_map(|step| step.loss).collect();
        Cell::number((!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64), 4)
    }),
    ("planned_steps", "Steps, planned", |run| Cell::number(run.environment.planned_steps.map(|steps| steps as f64), 0)),
    ("validation_seconds", "Time of validation", |run| {
        Cell::quantity(run.summary.as_ref().and_then(|summary| summary.validation_seconds), Unit::Seconds)
    }),
    ("monitor_seconds", "Time of measuring", |run| {
        Cell::Quantity(run.steps.iter().map(|step| step.monitor_seconds).sum(), Unit::Seconds)
    }),
    ("tokens", "Tokens", |run| Cell::number(run.steps.last().map(|step| step.tokens as f64), 0)),
    ("peak_memory_bytes", "Peak memory", |run| {
        let bytes = run.summary.as_ref().and_then(|summary| summary.peak_memory_bytes);
        Cell::quantity(bytes.map(|bytes| bytes as f64), Unit::Bytes)
    }),
];

/// All that was counted of a run: a row a measure.
fn measures(run: &Run) -> Table {
    let mut table = Table::new("What the run came to", [("measure", "Measure"), ("value", &run.name)]);
    for (_, title, value) in MEASURES {
        table.row([Cell::text(title), Cell::text(value(run).shown())]);
    }
    if let Some(processor) = &run.environment.processor {
        let threads = run.environment.threads.map_or(String::new(), |threads| format!(", {threads} threads"));
        table.row([Cell::text("Processor"), Cell::text(format!("{processor}{threads}"))]);
    }
    table
}

/// A row a run, a column a measure.
pub(super) fn runs(runs: &[Run]) -> Table {
    let columns = MEASURES.iter().map(|(key, title, _)| (*key, *title));
    let mut table = Table::new("What the runs came to", [("run", "Run")].into_iter().chain(columns));
    for run in runs {
        table.row([Cell::text(&run.name)].into_iter().chain(MEASURES.iter().map(|(_, _, value)| value(run))));
    }
    table
}
