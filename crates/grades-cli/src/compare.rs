//! `grades compare`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::bail;
use grades_train::compare::{Comparison, Metric, Options, Plan};
use grades_train::config::Variants;
use serde_json::json;

use crate::{child, output};

/// Compare methods of early stopping on one model and data: accuracy, time, arithmetic, memory, and what is noise.
///
/// Trains every method with every adapter and seed, each run in a process and a directory of its own under --out, scores it,
/// and writes compare.md, compare.csv, compare.json and compare.html there. What is there already is not made again, so an
/// interrupted comparison goes on (a run from its last checkpoint, with save_steps), and methods, seeds and tasks can be
/// added. Runs of one seed see the same data in the same order; only validation_loss validates before the end.
///
/// Options that only some runs have stand under `compare:` in the config, or have a name before them on the command line: an
/// adapter's, a method's, or adapter+method.
///
/// Example: grades compare configs/compare.yaml --methods none,grades --adapters full,lora --seeds 3 --tasks piqa
/// --data-dir data learning_rate=2e-5 lora:learning_rate=2e-4
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The config, a YAML file.
    config: PathBuf,
    /// Options that replace those of the file, for all runs or those of a name.
    #[arg(value_name = "[NAME:]KEY=VALUE")]
    overrides: Vec<String>,
    /// Methods of early stopping, separated by commas; all are compared with none.
    #[arg(long, value_delimiter = ',', default_value = "none,validation_loss,grades")]
    methods: Vec<String>,
    /// full (the model itself) and lora, separated by commas; left out, what the config trains.
    #[arg(long, value_delimiter = ',')]
    adapters: Vec<String>,
    /// Runs of each: with the config's seed and those after it.
    #[arg(long, default_value = "3", value_name = "N")]
    seeds: NonZeroUsize,
    /// Benchmarks, separated by commas; left out, losses and costs alone are compared.
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// The folder that holds a folder for each benchmark.
    #[arg(long, default_value = "data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Score only the first so many questions of each benchmark.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// What counts as right: acc (the likeliest choice) or acc_norm (the likeliest by character).
    #[arg(long, default_value = "acc")]
    metric: Metric,
    /// The folder of the comparison, a new one or that of an earlier call; left out, output_dir of the config.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, json: bool, threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
        let variants = Variants::load(&self.config, &self.overrides)?;
        let options = Options {
            methods: self.methods,
            adapters: self.adapters,
            seeds: self.seeds,
            tasks: self.tasks,
            data_dir: self.data_dir,
            limit: self.limit,
            metric: self.metric,
            out: self.out,
        };
        let plan = Plan::new(&variants, &options)?;
        let comparison = plan.run(&mut child::caller(threads), &mut output::log)?;
        let folder = plan.folder().path();
        if json {
            let mut result = comparison.json();
            result["out"] = json!(folder);
            output::print_json(&result)?;
        } else {
            output::print(comparison.markdown().trim_end());
            output::print(&format!("\nWritten to {}: compare.md, .csv, .json, .html", folder.display()));
        }
        fail_if_incomplete(&comparison)
    }
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
