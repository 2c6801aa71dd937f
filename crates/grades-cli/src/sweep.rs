//! `grades sweep`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use grades_train::compare::sweep::Options;
use grades_train::compare::{Metric, Sweep};
use grades_train::config::Variants;
use serde_json::json;

use crate::{child, compare, output};

/// Run GradES over a grid of thresholds and grace periods: accuracy, time and loss as maps.
///
/// All runs of a seed are the same until the first of them measures, so they share one run without early stopping (the
/// trunk) up to there, and go on from its checkpoints, to the bit as if each had been made alone. Like compare, it goes on
/// where it was interrupted, and writes sweep.md, sweep.csv, sweep.json and sweep.html. A threshold means what the config's
/// early_stopping says with its signal and norm. The checkpoints in trunk-seed…/ may be deleted at the end.
///
/// Example: grades sweep configs/compare.yaml --tau 0.7,0.72 --alpha 0.3,0.5 --tasks piqa --data-dir data
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The config, a YAML file.
    config: PathBuf,
    /// Options that replace those of the file, for all runs or those of a name.
    #[arg(value_name = "[NAME:]KEY=VALUE")]
    overrides: Vec<String>,
    /// Thresholds, separated by commas.
    #[arg(long, value_delimiter = ',', required = true, value_name = "TAU")]
    tau: Vec<f64>,
    /// Shares of the steps in which nothing freezes, separated by commas.
    #[arg(long, value_delimiter = ',', required = true, value_name = "ALPHA")]
    alpha: Vec<f64>,
    /// Runs of each: with the config's seed and those after it.
    #[arg(long, default_value = "1", value_name = "N")]
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
    /// The folder of the sweep, a new one or that of an earlier call; left out, output_dir of the config.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, json: bool, threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
        let variants = Variants::load(&self.config, &self.overrides)?;
        let options = Options {
            taus: self.tau,
            alphas: self.alpha,
            seeds: self.seeds,
            tasks: self.tasks,
            data_dir: self.data_dir,
            limit: self.limit,
            metric: self.metric,
            out: self.out,
        };
        let sweep = Sweep::new(&variants, &options)?;
        let grid = sweep.run(&mut child::caller(threads), &mut output::log)?;
        let folder = sweep.folder().path();
        if json {
            let mut result = grid.json();
            result["out"] = json!(folder);
            output::print_json(&result)?;
        } else {
            output::print(grid.markdown().trim_end());
            output::print(&format!("\nWritten to {}: sweep.md, .csv, .json, .html", folder.display()));
        }
        compare::fail_if_incomplete(&grid.comparison)
    }
}
