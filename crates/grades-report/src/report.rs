//! The report of some runs: all their figures, and the page around them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::answers;
use crate::error::ReportError;
use crate::figure::Figure;
use crate::figures::{
    benchmarks, cost, events, freezing, frozen_share, learning_rate, losses, losses_apart, validation_by_arithmetic,
};
use crate::groups::{Cast, Group, by_seed};
use crate::live;
use crate::page::{self, escape};
use crate::run::{Run, read};
use crate::samples;
use crate::signals;
use crate::summary;

/// Every figure of some runs.
#[must_use]
pub fn figures(runs: &[Run]) -> Vec<Figure> {
    let groups = by_seed(runs);
    let cast = Cast { runs, groups: &groups, first: 0 };
    let of_run = |(index, run): (usize, &Run)| {
        let prefix = prefix(runs, index);
        let mut figures = vec![signals::map(run, &prefix)];
        figures.extend(signals::layers(run, index, &prefix).into_iter().map(|(_, figure)| figure));
        figures
    };
    let mut figures = vec![losses(&cast), validation_by_arithmetic(&cast), learning_rate(&cast), frozen_share(&cast)];
    figures.extend(benchmarks(&cast));
    figures.extend(freezing(&cast));
    figures.extend(cost(&cast));
    figures.extend(runs.iter().enumerate().flat_map(of_run));
    figures
}

fn prefix(runs: &[Run], index: usize) -> String {
    if runs.len() > 1 { format!("run{}-", index + 1) } else { String::new() }
}

/// Losses and freezing of some runs over one another, by groups: a colour for each, the mean of its runs thick. `first`: how many
/// runs the [`clocks`] that the page has before these are of.
#[must_use]
pub fn overlay(runs: &[Run], groups: &[Group], first: usize) -> Vec<Figure> {
    let cast = Cast { runs, groups, first };
    let mut figures = losses_apart(&cast);
    figures.extend(benchmarks(&cast));
    figures.extend([frozen_share(&cast), learning_rate(&cast)]);
    figures.extend(freezing(&cast));
    figures.retain(|figure| worth(runs, figure));
    figures
}

/// Values of other horizontal axes (time, operations) for the figures of these runs, once a page.
#[must_use]
pub fn clocks(runs: &[Run]) -> String {
    live::clocks(runs)
}

/// Whether a page shows a figure: of runs that have ended none that is empty, or tells of freezing where nothing froze.
fn worth(runs: &[Run], figure: &Figure) -> bool {
    let goes_on = runs.iter().any(|run| run.summary.is_none());
    let froze = runs.iter().any(|run| run.steps.iter().any(|step| step.frozen_units > 0));
    goes_on || !figure.is_empty() && (froze || !figure.name.contains("frozen-share"))
}

/// The page about some runs. With `refresh` a browser loads it again after so many seconds.
#[must_use]
pub fn html(runs: &[Run], refresh: Option<u64>) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let names = names.join(", ");
    let groups = by_seed(runs);
    let cast = Cast { runs, groups: &groups, first: 0 };
    let heading = if runs.len() > 4 { format!("{} runs", runs.len()) } else { escape(&names) };
    let mut body = format!("<h1>{heading}</h1>\n");
    let going = runs.iter().filter(|run| run.summary.is_none()).count();
    if going > 0 {
        body.push_str(
            "<p>Without summary.json so far: what follows is of a run that goes on or was interrupted.</p>\n",
        );
    }
    match runs {
        [run] => body.push_str(&summary::facts(run)),
        _ => body.push_str(&summary::runs(runs).sortable_html()),
    }
    body.push_str(&live::clocks(runs));
    let group = |body: &mut String, title: &str, note: &str, figures: Vec<Figure>| {
        let figures: Vec<Figure> = figures.into_iter().filter(|figure| worth(runs, figure)).collect();
        if !figures.is_empty() {
            let _ = write!(body, "<h2>{title}</h2>\n<p>{note}</p>\n<div class=\"figures\">\n");
            figures.iter().for_each(|figure| body.push_str(&figure.html()));
            body.push_str("</div>\n");
        }
    };
    let mut first = if runs.len() == 1 { vec![losses(&cast)] } else { losses_apart(&cast) };
    first.extend(benchmarks(&cast));
    first.push(frozen_share(&cast));
    group(&mut body, "Training", "", first);
    for (index, run) in runs.iter().enumerate() {
        let of = if runs.len() > 1 { format!(" of {}", escape(&run.name)) } else { String::new() };
        if run.summary.is_none() || !run.frozen_at().is_empty() {
            let map = signals::map(run, &prefix(runs, index)).html();
            let _ = write!(body, "<h2>When each matrix froze{of}</h2>\n<div class=\"map\">{map}</div>\n");
        }
    }
    let note = "Each matrix freezes by itself once its signal has passed its threshold.";
    group(&mut body, "Freezing", note, freezing(&cast));
    for (index, run) in runs.iter().enumerate() {
        let of = if runs.len() > 1 { format!(" of {}", escape(&run.name)) } else { String::new() };
        let layers = signals::layers(run, index, &prefix(runs, index));
        if !layers.is_empty() {
            let _ = write!(body, "<h2>Signals{of}, by layer</h2>\n<p>{}</p>\n", escape(&signals::note(run)));
            body.push_str(&picker(index, &layers));
        }
    }
    let note = "A matrix that froze at a step makes the next one cheaper.";
    let costs = cost(&cast).into_iter().chain([learning_rate(&cast)]);
    group(&mut body, "Time, memory, arithmetic and learning rate", note, costs.collect());
    for run in runs {
        let of = if runs.len() > 1 { format!(" of {}", run.name) } else { String::new() };
        body.push_str(&answers::html(&format!("Answers{of}"), &run.generated));
        body.push_str(&samples::html(&format!("Samples{of}"), &run.samples));
    }
    body.push_str("<h2>Events and configuration</h2>\n");
    for run in runs {
        let name = escape(&run.name);
        let events = events(run);
        let count = events.rows().len();
        let _ = write!(body, "<details><summary>{count} events of {name}</summary>\n{}</details>\n", events.html());
        let _ = write!(
            body,
            "<details><summary>Configuration of {name}</summary>\n<pre>{}</pre></details>\n",
            escape(&run.config)
        );
        let environment = serde_json::to_string_pretty(&run.environment).unwrap_or_default();
        let _ = write!(
            body,
            "<details><summary>Machine of {name}</summary>\n<pre>{}</pre></details>\n",
            escape(&environment)
        );
    }
    page::page(&format!("{names} · GradES"), &body, refresh)
}

/// Buttons of which one is chosen, each followed by what it shows. The style does the choosing, without a script.
fn picker(index: usize, choices: &[(String, Figure)]) -> String {
    let mut html = String::from("<div class=\"picker\" role=\"radiogroup\" aria-label=\"Layer\">\n");
    for (choice, (label, figure)) in choices.iter().enumerate() {
        let (id, checked) = (format!("layer-{index}-{choice}"), if choice == 0 { " checked" } else { "" });
        let _ = writeln!(
            html,
            "<input type=\"radio\" name=\"layer-{index}\" id=\"{id}\"{checked}><label for=\"{id}\">{}</label><div class=\"pane\">{}</div>",
            escape(label),
            figure.html()
        );
    }
    html.push_str("</div>\n");
    html
}

/// Writes the report of one run into its directory, as `report.html`.
///
/// # Errors
/// As [`read`] and [`page::save`].
pub fn write_into(run: &Path) -> Result<PathBuf, ReportError> {
    let path = run.join("report.html");
    page::save(&path, &html(&read(&[run])?, None))?;
    Ok(path)
}
