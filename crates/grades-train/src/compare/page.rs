//! A comparison as one HTML file, in the style of a run's report.

use std::fmt::Write as _;
use std::path::Path;

use super::finished::Finished;
use super::outcome::{Comparison, Row};
use grades_report::page::{escape, page};
use grades_report::svg::{self, Bar};
use grades_report::{self as report, Figure, Run, number};

/// Runs that one figure can tell apart.
const MOST_OVERLAID: usize = 6;

/// The page of a comparison in `folder`, with `maps` of a sweep.
pub(super) fn html(title: &str, comparison: &Comparison, folder: &Path, maps: &[Figure]) -> String {
    let mut body = format!("<h1>{title}</h1>\n");
    let made: usize = comparison.rows.iter().map(|row| row.runs.len()).sum();
    if made < comparison.planned {
        let _ = writeln!(body, "<p>{made} of {} runs so far.</p>", comparison.planned);
    }
    body.push_str("<ul>\n");
    for finding in comparison.findings() {
        let _ = writeln!(body, "<li>{}</li>", escape(&finding));
    }
    body.push_str("</ul>\n");
    if !maps.is_empty() {
        body.push_str("<h2>Maps</h2>\n<div class=\"figures\">\n");
        maps.iter().for_each(|map| body.push_str(&map.html()));
        body.push_str("</div>\n");
    }
    for (title, mut table) in comparison.tables() {
        // A caption would be as wide as its table, which scrolls.
        let caption = std::mem::replace(&mut table.caption, title.to_owned());
        let _ = write!(body, "<h2>{title}</h2>\n<p>{}.</p>\n{}", escape(&caption), table.html());
    }
    body.push_str("<h2>Figures</h2>\n<div class=\"figures\">\n");
    comparison.frontier_figures().iter().for_each(|figure| body.push_str(&figure.html()));
    body.push_str(&time(comparison).html());
    // The runs of a sweep are too many for one figure, and begin where they fork.
    if maps.is_empty() {
        overlays(comparison).iter().for_each(|figure| body.push_str(&figure.html()));
    }
    body.push_str("</div>\n<h2>Runs</h2>\n<ul>\n");
    for (_, run) in comparison.rows.iter().flat_map(|row| &row.runs) {
        let name = run.run.strip_prefix(folder).unwrap_or(&run.run).to_string_lossy();
        let name = escape(&name);
        let _ = writeln!(body, "<li><a href=\"{name}/report.html\">{name}</a></li>");
    }
    body.push_str("</ul>\n");
    page(&format!("{title} · GradES"), &body, None)
}

/// Seconds of each row.
fn time(comparison: &Comparison) -> Figure {
    let title = "Time";
    let bar = |row: &Row| {
        let mean = |value: &dyn Fn(&Finished) -> f64| row.mean(|run| Some(value(run))).unwrap_or(0.0);
        let outlined = mean(&|run| run.summary.validation_seconds.unwrap_or(0.0) + run.summary.monitor_seconds);
        let all = mean(&|run| run.summary.seconds);
        let text = format!("{}, {} of it validation and monitoring", number::seconds(all), number::seconds(outlined));
        Bar { name: format!("{} {}", row.adapter, row.method), solid: all - outlined, outlined, text }
    };
    let bars: Vec<Bar> = comparison.rows.iter().filter(|row| !row.runs.is_empty()).map(bar).collect();
    let note = "Mean over the seeds. Solid: training. Outlined: validation and monitoring.";
    Figure {
        name: "time".into(),
        title: title.into(),
        note: note.into(),
        svg: svg::bars(title, &bars),
        table: comparison.cost(),
    }
}

/// Loss, learning rate and frozen share of the first runs of an adapter over one another.
fn overlays(comparison: &Comparison) -> Vec<Figure> {
    let mut adapters: Vec<&str> = comparison.rows.iter().map(|row| row.adapter.as_str()).collect();
    adapters.dedup();
    let mut figures = Vec::new();
    for adapter in adapters {
        let firsts = comparison.rows.iter().filter(|row| row.adapter == adapter).filter_map(|row| row.runs.first());
        // The figures are beside the result: a run whose logs cannot be read is left out of them.
        let runs: Vec<Run> = firsts.take(MOST_OVERLAID).filter_map(|(_, run)| Run::read(&run.run).ok()).collect();
        if !runs.is_empty() {
            figures.extend(report::overlay(&runs).into_iter().map(|figure| Figure {
                name: format!("{adapter}-{}", figure.name),
                title: format!("{}, {adapter}, first seed", figure.title),
                ..figure
            }));
        }
    }
    figures
}
