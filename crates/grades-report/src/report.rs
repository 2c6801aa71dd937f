//! The report of some runs: all their figures, and the page around them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::error::ReportError;
use crate::figure::Figure;
use crate::figures::{cost, events, freezing, progress, summary};
use crate::page::{self, escape};
use crate::run::{Run, read};
use crate::samples;
use crate::signals;

/// Every figure of some runs.
#[must_use]
pub fn figures(runs: &[Run]) -> Vec<Figure> {
    let of_run = |(index, run): (usize, &Run)| {
        let prefix = if runs.len() > 1 { format!("run{}-", index + 1) } else { String::new() };
        let mut figures = vec![signals::map(run, &prefix)];
        figures.extend(signals::layers(run, &prefix).into_iter().map(|(_, figure)| figure));
        figures
    };
    let shared = [progress(runs), freezing(runs), cost(runs)];
    shared.into_iter().flatten().chain(runs.iter().enumerate().flat_map(of_run)).collect()
}

/// Losses and freezing of some runs over one another.
#[must_use]
pub fn overlay(runs: &[Run]) -> Vec<Figure> {
    progress(runs).into_iter().chain(freezing(runs)).collect()
}

/// The page about some runs. With `refresh` a browser loads it again after so many seconds.
#[must_use]
pub fn html(runs: &[Run], refresh: Option<u64>) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let names = names.join(", ");
    let mut body = format!("<h1>{}</h1>\n", escape(&names));
    let going = runs.iter().filter(|run| run.summary.is_none()).count();
    if going > 0 {
        body.push_str(
            "<p>Without summary.json so far: what follows is of a run that goes on or was interrupted.</p>\n",
        );
    }
    body.push_str(&summary(runs).html());
    let group = |body: &mut String, title: &str, note: &str, figures: &[Figure]| {
        let _ = write!(body, "<h2>{title}</h2>\n<p>{note}</p>\n<div class=\"figures\">\n");
        figures.iter().for_each(|figure| body.push_str(&figure.html()));
        body.push_str("</div>\n");
    };
    group(&mut body, "Training", "", &progress(runs));
    let note = "Each matrix freezes by itself once its signal has passed its threshold.";
    group(&mut body, "Freezing", note, &freezing(runs));
    for (index, run) in runs.iter().enumerate() {
        let of = if runs.len() > 1 { format!(" of {}", escape(&run.name)) } else { String::new() };
        let _ = write!(
            body,
            "<h2>When each matrix froze{of}</h2>\n<div class=\"map\">{}</div>\n",
            signals::map(run, "").html()
        );
        let layers = signals::layers(run, "");
        if !layers.is_empty() {
            let _ = write!(body, "<h2>Signals{of}, by layer</h2>\n<p>{}</p>\n", escape(&signals::note(run)));
            body.push_str(&picker(index, &layers));
        }
    }
    let note = "A matrix that froze at a step makes the next one cheaper.";
    group(&mut body, "Time, memory and arithmetic", note, &cost(runs));
    for run in runs {
        let of = if runs.len() > 1 { format!(" of {}", run.name) } else { String::new() };
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
