//! A chart on a page: its drawing, its legend, and its values for the script of the page (`script/`), without which the drawing
//! and the legend are read as they stand.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::chart::Chart;
use crate::page::escape;
use crate::run::Run;
use crate::series::{Mark, Weight};

/// The most points of a run's clock.
const CLOCK: usize = 400;

/// The drawing, the legend (a button an entry), and the values.
pub(super) fn html(chart: &Chart) -> String {
    let mut html = format!("<div class=\"plot\">{}</div>\n", chart.drawn());
    if chart.is_empty() {
        return html;
    }
    let entries = chart.entries();
    if entries.len() > 1 {
        let _ = write!(html, "<div class=\"legend\" role=\"group\" aria-label=\"Lines of {}\">", escape(&chart.title));
        for (place, entry) in entries.iter().enumerate() {
            let mut key = String::new();
            entry.key(&mut key, 7.0);
            let _ = write!(
                html,
                "<button type=\"button\" disabled aria-pressed=\"true\" data-e=\"{place}\"><svg class=\"key\" viewBox=\"10 0 44 14\" \
                 aria-hidden=\"true\">{key}</svg>{}</button>",
                escape(entry.name)
            );
        }
        html.push_str("</div>\n");
    }
    html.push_str(&data("values", &values(chart)));
    html
}

/// A value for the script: nothing in it can end its element.
fn data(class: &str, value: &Value) -> String {
    let text = value.to_string().replace('<', "\\u003c");
    format!("<script type=\"application/json\" class=\"{class}\">{text}</script>\n")
}

/// With six digits, which are more than a screen shows.
fn short(value: f64) -> Value {
    format!("{value:.5e}").parse::<f64>().ok().filter(|value| value.is_finite()).map_or(Value::Null, whole)
}

/// Whole numbers without a decimal point.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

fn values(chart: &Chart) -> Value {
    let frame = chart.frame();
    let entries = chart.entries();
    let series = chart.series.iter().enumerate().map(|(place, series)| {
        let look = chart.look(place);
        let entry = entries.iter().position(|entry| entry.name == series.entry()).unwrap_or(0);
        let weight = match series.weight {
            Weight::Plain => "plain",
            Weight::Seed => "seed",
            Weight::Mean => "mean",
        };
        let mut value = json!({
            "name": series.name, "entry": entry, "hue": look.hue % 8, "dashes": look.dashes(), "weight": weight,
            "line": series.mark == Mark::Line, "runs": series.runs,
        });
        points(&mut value, &chart.kept(series));
        if !series.spreads.is_empty() {
            let ends = |ends: Option<[f64; 2]>| ends.map_or(Value::Null, |ends| json!(ends.map(short)));
            let spread = |of: &crate::series::Spread| json!([short(of.at.0), short(of.at.1), ends(of.x), ends(of.y)]);
            value["spreads"] = series.spreads.iter().map(spread).collect();
        }
        value
    });
    let plot = [frame.left, frame.right, frame.top, frame.bottom].map(short);
    let axes = [frame.x, frame.y].map(|axis| (axis.low, axis.high, axis.logarithmic));
    let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    json!({
        "x": chart.x, "y": chart.y, "xUnit": chart.x_unit.name(), "unit": chart.unit.name(), "fromZero": chart.from_zero,
        "smooth": chart.smooth, "scatter": chart.is_scatter(), "ends": chart.has_end_labels(),
        "frame": plot, "axes": axes, "guides": chart.guides, "entries": names, "series": series.collect::<Vec<_>>(),
    })
}

/// The values of a series; of one after another from some whole number on, the first place alone.
fn points(value: &mut Value, points: &[(f64, Option<f64>)]) {
    let first = points.first().map_or(0.0, |(x, _)| *x);
    let counts = first.fract() == 0.0 && (0_u32..).zip(points).all(|(place, (x, _))| *x == first + f64::from(place));
    if counts {
        value["from"] = whole(first);
    } else {
        value["xs"] = points.iter().map(|(x, _)| short(*x)).collect();
    }
    value["ys"] = points.iter().map(|(_, y)| y.map_or(Value::Null, short)).collect();
}

/// When each run was at which step, and after how many operations: what other horizontal axes follow from.
pub(super) fn clocks(runs: &[Run]) -> String {
    let clock = |run: &Run| {
        let every = run.steps.len().div_ceil(CLOCK).max(1);
        let last = run.steps.len().saturating_sub(1);
        let ticks = run.steps.iter().zip(run.executed_by_step()).enumerate();
        let shown = ticks.filter(|(place, _)| place % every == 0 || *place == last);
        shown.map(|(_, (step, (at, flops)))| json!([at, step.seconds, flops].map(short))).collect::<Value>()
    };
    data("clocks", &runs.iter().map(clock).collect())
}
