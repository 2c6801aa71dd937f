//! What `grades compare` and `grades sweep` share: the runs' common options, and how the results are told.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::bail;
use grades_train::compare::{Comparison, Metric, RunOptions};
use serde_json::{Value, json};

use crate::output;

/// How runs are scored, and where they go.
#[derive(Debug, clap::Args)]
pub(crate) struct Runs {
    /// Benchmarks, separated by commas, or files of questions of your own, as grades eval takes them; left out, losses and costs
    /// alone are compared.
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// The folder that holds a folder for each benchmark; left out, data/<task> where there is one, and else the benchmark's
    /// set on the Hugging Face Hub, fetched once.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The folder of pictures that rows of questions give by path; left out, that of their file.
    #[arg(long, value_name = "DIR")]
    image_folder: Option<PathBuf>,
    /// Score only the first so many questions of each benchmark.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// What counts as right of choices: acc (the likeliest one) or acc_norm (the likeliest by character). Answers in writing have
    /// the score that grades eval gives them.
    #[arg(long, default_value = "acc")]
    metric: Metric,
    /// The folder of all runs and results, a new one or that of an earlier call; left out, output_dir of the config.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Runs {
    /// The same, with so many seeds of each.
    pub(crate) fn with_seeds(self, seeds: NonZeroUsize) -> RunOptions {
        let Self { tasks, data_dir, image_folder, limit, metric, out } = self;
        RunOptions { seeds, tasks, data_dir, image_folder, limit, metric, out }
    }
}

/// Prints a result that was written to `folder` as files called `name`; an error where runs failed.
pub(crate) fn tell(
    json: bool,
    (name, folder): (&str, &Path),
    mut result: Value,
    markdown: &str,
    comparison: &Comparison,
) -> anyhow::Result<()> {
    if json {
        result["out"] = json!(folder);
        output::print_json(&result)?;
    } else {
        output::print(markdown.trim_end());
        output::print(&format!("\nWritten to {}: {name}.md, .csv, .json, .html", folder.display()));
    }
    fail_if_incomplete(comparison)
}

/// The error of a comparison in which runs failed.
pub(crate) fn fail_if_incomplete(comparison: &Comparison) -> anyhow::Result<()> {
    let failed: Vec<&str> = comparison.failures.iter().map(|failure| failure.name.as_str()).collect();
    match failed.as_slice() {
        [] => Ok(()),
        _ => bail!(
            "{} of {} runs failed ({}); the others are compared, and the same call tries these again",
            failed.len(),
            comparison.planned,
            failed.join(", ")
        ),
    }
}
