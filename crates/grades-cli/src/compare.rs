//! `grades compare`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use grades_train::compare::{CompareOptions, FrontierOptions, Plan};
use grades_train::config::Variants;

use crate::runs::{self, Runs};
use crate::{child, output};

/// Compare methods of early stopping on one model and data: accuracy, time, arithmetic, memory, and what is noise.
///
/// Trains every method with every adapter and seed, each run in a process and a directory of its own under --out, scores it,
/// and writes compare.md, compare.csv, compare.json and compare.html there. What is there already is not made again, so an
/// interrupted comparison goes on (a run from its last checkpoint, with save_steps), and methods, seeds and tasks can be
/// added. Runs of one seed see the same data in the same order; only validation_loss validates before the end.
///
/// --frontier draws what training without stopping comes to over a grid of lengths and learning rates, and tells the excess of
/// each method: how far its loss lies above the best schedule at the same arithmetic.
///
/// Beside methods, --methods takes linear and wsd (no stopping, another schedule), names that stand under `compare:` with an
/// early_stopping of their own, and controls of a method, made from its runs: shorter:METHOD (a cosine that ends where the
/// method ended), all_at_once:METHOD (everything stopped when as much arithmetic is spent), random:METHOD and reverse:METHOD
/// (as many matrices frozen at the same steps, chosen otherwise).
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
    /// Compare with schedules of several lengths and learning rates, too; needs val_set_size.
    #[arg(long)]
    frontier: bool,
    /// Lengths of these schedules as shares of the planned run, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0.25,0.5,1", value_name = "SHARES", requires = "frontier")]
    frontier_lengths: Vec<f64>,
    /// Their learning rates as multiples of the config's, separated by commas; all are tried at the shortest length, and at
    /// longer ones the best and its neighbours.
    #[arg(long, value_delimiter = ',', default_value = "0.5,1,2,4", value_name = "MULTIPLES", requires = "frontier")]
    frontier_rates: Vec<f64>,
    #[command(flatten)]
    runs: Runs,
}

impl Args {
    pub(crate) fn run(self, json: bool, threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
        let variants = Variants::load(&self.config, &self.overrides)?;
        let runs = self.runs.with_seeds(self.seeds);
        let frontier = FrontierOptions { lengths: self.frontier_lengths, rates: self.frontier_rates };
        let frontier = self.frontier.then_some(frontier);
        let options = CompareOptions { methods: self.methods, adapters: self.adapters, frontier, runs };
        let plan = Plan::new(&variants, &options)?;
        let comparison = plan.run(&mut child::worker(threads), &mut output::log)?;
        let place = ("compare", plan.folder().path());
        runs::tell(json, place, comparison.json(), &comparison.markdown(), &comparison)
    }
}
