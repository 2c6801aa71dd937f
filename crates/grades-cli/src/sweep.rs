//! `grades sweep`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use grades_train::compare::{Sweep, SweepOptions};
use grades_train::config::Variants;

use crate::runs::{self, Runs};
use crate::{child, output};

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
    #[command(flatten)]
    runs: Runs,
}

impl Args {
    pub(crate) fn run(self, json: bool, threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
        let variants = Variants::load(&self.config, &self.overrides)?;
        let runs = self.runs.with_seeds(self.seeds);
        let sweep = Sweep::new(&variants, &SweepOptions { taus: self.tau, alphas: self.alpha, runs })?;
        let grid = sweep.run(&mut child::worker(threads), &mut output::log)?;
        runs::tell(json, ("sweep", sweep.folder().path()), grid.json(), &grid.markdown(), &grid.comparison)
    }
}
