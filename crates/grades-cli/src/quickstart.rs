//! `grades quickstart`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use grades_report::{self as report, page};
use grades_train::compare::{CompareOptions, Comparison, Metric, Plan, Row, RunOptions};
use grades_train::config::Variants;
use grades_train::quickstart::{self, TASK};
use serde_json::json;

use crate::{child, output, runs};

/// The folder where none is named; the next free one of this name and a number.
const FOLDER: &str = "quickstart";
const METHODS: [&str; 3] = ["none", "validation_loss", "grades"];

/// See all of it work: fine-tune a small model that this program brings along, with and without stopping early.
///
/// Needs no network and no other file. The model (0.45 million parameters) was pretrained by this program on sentences about a
/// made-up world; the task is 980 questions about that world, of which one in five has a wrong answer. It trains without
/// stopping, with validation early stopping and with GradES, scores each on 1,000 other questions, and prints what it came to.
/// --out gets config.yaml, model/, data/, runs/ (with compare.html) and report.html: open the two in a browser. All of it is
/// repeated by: grades compare quickstart/config.yaml --tasks multiple_choice --data-dir quickstart/data --out again
///
/// Example: grades quickstart
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder for everything, a new one; left out, quickstart, quickstart-2 and so on, the first that is free.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs of each method.
    #[arg(long, default_value = "3", value_name = "N")]
    seeds: NonZeroUsize,
    /// Only write into a folder what the model is pretrained from (configs/pretrain.yaml).
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "seeds"])]
    corpus: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, json: bool, threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
        if let Some(folder) = self.corpus {
            quickstart::write_corpus(&folder)?;
            return if json {
                output::print_json(&json!({ "corpus": folder }))
            } else {
                output::print(&format!("corpus  {}", folder.display()));
                Ok(())
            };
        }
        let started = Instant::now();
        let folder = self.out.unwrap_or_else(free_folder);
        report::check_folder(&folder)?;
        let files = quickstart::write(&folder)?;
        output::log(&format!("{}: a small model, and questions for it", folder.display()));
        let options = CompareOptions {
            methods: METHODS.map(str::to_owned).to_vec(),
            adapters: Vec::new(),
            frontier: None,
            runs: RunOptions {
                seeds: self.seeds,
                tasks: vec![TASK.to_owned()],
                image_folder: None,
                data_dir: Some(files.data),
                limit: None,
                metric: Metric::Acc,
                out: Some(files.runs),
            },
        };
        let plan = Plan::new(&Variants::load(&files.config, &[])?, &options)?;
        let comparison = plan.run(&mut child::worker(threads), &mut output::log)?;
        let report = write_report(&comparison, &folder)?;
        let compared = plan.folder().path().join("compare.html");
        let seconds = started.elapsed().as_secs_f64();
        if json {
            let mut result = comparison.json();
            for (key, value) in [
                ("out", json!(folder)),
                ("report", json!(report)),
                ("comparison", json!(compared)),
                ("elapsed_seconds", json!(seconds)),
            ] {
                result[key] = value;
            }
            output::print_json(&result)?;
        } else {
            output::print(comparison.markdown().trim_end());
            output::print(&format!("\nIn {seconds:.0} s. Open in a browser:"));
            output::print(&format!("  {}  the methods beside one another", compared.display()));
            output::print(&format!("  {}  what froze when, and why", report.display()));
        }
        runs::fail_if_incomplete(&comparison)
    }
}

fn free_folder() -> PathBuf {
    let name = |number: usize| if number == 1 { FOLDER.to_owned() } else { format!("{FOLDER}-{number}") };
    let free = |folder: &PathBuf| report::check_folder(folder).is_ok();
    (1..).map(|number| PathBuf::from(name(number))).find(free).unwrap_or_else(|| FOLDER.into())
}

/// The first run of each method over one another.
fn write_report(comparison: &Comparison, folder: &Path) -> anyhow::Result<PathBuf> {
    let first = |row: &Row| row.runs.first().map(|(_, run)| run.run.clone());
    let runs: Vec<PathBuf> = comparison.rows.iter().filter_map(first).collect();
    let path = folder.join("report.html");
    if !runs.is_empty() {
        page::save(&path, &report::html(&report::read(&runs)?, None))?;
    }
    Ok(path)
}
