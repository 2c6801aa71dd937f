//! `grades report`.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use grades_report::{self as report, Run, page};
use serde_json::json;

use crate::output;

/// Seconds between two looks at a run that goes on.
const REFRESH: u64 = 5;

/// Show runs as one HTML file: losses, signals, what froze when, time, memory, arithmetic.
///
/// Reads run directories only and needs no network, nor does the file. Several runs are drawn over one another. A file
/// that is not an older report is never overwritten.
///
/// Example: grades report runs/first runs/second --out both.html
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directories (output_dir of a run).
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The file; left out, report.html in the directory of the run, or here if there are several runs.
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Write every figure as a drawing into this new folder, too.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Write the numbers of every figure into this new folder, too.
    #[arg(long, value_name = "DIR")]
    csv: Option<PathBuf>,
    /// Write the file again every few seconds until the runs have ended; a browser that shows it follows.
    #[arg(long)]
    watch: bool,
}

impl Args {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        let out = match (&self.out, self.runs.as_slice()) {
            (Some(out), _) => out.clone(),
            (None, [run]) => run.join("report.html"),
            (None, _) => PathBuf::from("report.html"),
        };
        // Before anything is written or waited for.
        let mut runs = report::read(&self.runs)?;
        page::check_free(&out)?;
        [&self.svg, &self.csv].into_iter().flatten().try_for_each(|folder| report::check_folder(folder))?;
        if self.watch && goes_on(&runs) {
            output::log(&format!("writing {} every {REFRESH} s until the run ends; Ctrl-C ends it", out.display()));
        }
        while self.watch && goes_on(&runs) {
            page::save(&out, &report::html(&runs, Some(REFRESH)))?;
            thread::sleep(Duration::from_secs(REFRESH));
            runs = report::read(&self.runs)?;
        }
        page::save(&out, &report::html(&runs, None))?;
        let figures = report::figures(&runs);
        if let Some(folder) = &self.svg {
            report::write_svg(folder, &figures)?;
        }
        if let Some(folder) = &self.csv {
            report::write_csv(folder, &figures)?;
        }
        if json {
            let runs: Vec<_> = runs.iter().map(of).collect();
            return output::print_json(&json!({ "report": out, "svg": self.svg, "csv": self.csv, "runs": runs }));
        }
        output::print(&format!("report  {}", out.display()));
        for (name, folder) in [("svg", &self.svg), ("csv", &self.csv)] {
            if let Some(folder) = folder {
                output::print(&format!("{name:<8}{} ({} figures)", folder.display(), figures.len()));
            }
        }
        Ok(())
    }
}

fn goes_on(runs: &[Run]) -> bool {
    runs.iter().any(|run| run.summary.is_none())
}

/// A run in the result.
fn of(run: &Run) -> serde_json::Value {
    json!({
        "name": run.name,
        "run_dir": run.path,
        "steps": run.steps.last().map_or(0, |step| step.step),
        "frozen_units": run.steps.last().map_or(0, |step| step.frozen_units),
        "units": run.unit_count(),
        "finished": run.summary.is_some(),
    })
}
