//! What happened in one run or several, as one HTML file, as drawings and as tables. Reads run directories only.

pub mod csv;
mod figures;
pub mod number;
pub mod page;
pub mod run;
mod signals;
pub mod svg;
pub mod table;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use run::Run;
use table::{Cell, Table};

use page::escape;

/// The rows of a table that a page shows at most; files of their own hold all.
const SHOWN_ROWS: usize = 200;

/// What can be wrong with a report; each message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// There is no run.
    #[error("{}: there is no run in this directory (no metrics.jsonl); give the output_dir of a run", path.display())]
    NoRun {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// A line that is not what it should be.
    #[error("{}, line {line}: the line is damaged ({problem}); correct or remove it", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A file that is not what it should be.
    #[error("{}: the file is damaged ({problem}); correct or remove it", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Something else stands where the report should go.
    #[error("{}: this file is no report of grades, so it is not replaced; give another name", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
    },
    /// Something is in the folder for drawings or tables.
    #[error("{}: there is something in this folder already; give a new one", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
}

/// A drawing with the numbers behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The name of its files.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// The drawing.
    pub svg: String,
    /// Its numbers.
    pub table: Table,
}

impl Figure {
    pub(crate) fn html(&self) -> String {
        let note = if self.note.is_empty() { String::new() } else { format!("<p>{}</p>\n", escape(&self.note)) };
        format!(
            "<figure>\n<h3>{}</h3>\n{note}{}<details><summary>Numbers</summary>\n{}</details>\n</figure>\n",
            escape(&self.title),
            self.svg,
            self.table.thinned(SHOWN_ROWS).html()
        )
    }
}

/// Reads runs; those of one name are told apart by their paths.
///
/// # Errors
/// As [`Run::read`].
pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Run>, ReportError> {
    let mut runs = paths.iter().map(|path| Run::read(path.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (index, run) in runs.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[index]).count() > 1 {
            run.name = run.path.display().to_string();
        }
    }
    Ok(runs)
}

/// Every figure of some runs.
#[must_use]
pub fn figures(runs: &[Run]) -> Vec<Figure> {
    let of_run = |(index, run): (usize, &Run)| {
        let prefix = if runs.len() > 1 { format!("run{}-", index + 1) } else { String::new() };
        let mut figures = vec![signals::map(run, &prefix)];
        figures.extend(signals::layers(run, &prefix).into_iter().map(|(_, figure)| figure));
        figures
    };
    let shared = [figures::progress(runs), figures::freezing(runs), figures::cost(runs)];
    shared.into_iter().flatten().chain(runs.iter().enumerate().flat_map(of_run)).collect()
}

/// Losses and freezing of some runs over one another.
pub(crate) fn overlay(runs: &[Run]) -> Vec<Figure> {
    figures::progress(runs).into_iter().chain(figures::freezing(runs)).collect()
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
    body.push_str(&figures::summary(runs).html());
    let group = |body: &mut String, title: &str, note: &str, figures: &[Figure]| {
        let _ = write!(body, "<h2>{title}</h2>\n<p>{note}</p>\n<div class=\"figures\">\n");
        figures.iter().for_each(|figure| body.push_str(&figure.html()));
        body.push_str("</div>\n");
    };
    group(&mut body, "Training", "", &figures::progress(runs));
    let note = "Each matrix freezes by itself once its signal has passed its threshold.";
    group(&mut body, "Freezing", note, &figures::freezing(runs));
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
    group(&mut body, "Time, memory and arithmetic", note, &figures::cost(runs));
    body.push_str("<h2>Events and configuration</h2>\n");
    for run in runs {
        let name = escape(&run.name);
        let events = figures::events(run);
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

/// Whether files may be written into a folder: there is none, or it is empty.
///
/// # Errors
/// If there is something.
pub fn check_folder(folder: &Path) -> Result<(), ReportError> {
    let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || folder.is_file() { Err(ReportError::Occupied { path: folder.into() }) } else { Ok(()) }
}

/// Writes every figure into a new or empty folder as SVG, `<name>.svg`.
///
/// # Errors
/// If there is something in the folder, or it cannot be written.
pub fn write_svg(folder: &Path, figures: &[Figure]) -> Result<(), ReportError> {
    write_files(folder, figures.iter().map(|figure| (format!("{}.svg", figure.name), svg::standalone(&figure.svg))))
}

/// Writes the numbers of every figure into a new or empty folder, `<name>.csv`.
///
/// # Errors
/// If there is something in the folder, or it cannot be written.
pub fn write_csv(folder: &Path, figures: &[Figure]) -> Result<(), ReportError> {
    write_files(folder, figures.iter().map(|figure| (format!("{}.csv", figure.name), figure.table.csv())))
}

fn write_files(folder: &Path, files: impl Iterator<Item = (String, String)>) -> Result<(), ReportError> {
    check_folder(folder)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        |source| ReportError::Io { path, source }
    };
    fs::create_dir_all(folder).map_err(io(folder))?;
    for (name, contents) in files {
        let path = folder.join(name);
        fs::write(&path, contents).map_err(io(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
