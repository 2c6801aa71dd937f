//! GradES over a grid of thresholds τ and grace periods α: the paper's Tables 6 and 7.
//!
//! All runs of a seed are one run until the first of them measures anything. So one run without early stopping is made, the
//! trunk, with a checkpoint where the runs of each α part from it; they go on from there, and are to the bit what they would
//! have been from the beginning.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::adapter::adapter_name;
use super::error::CompareError;
use super::finished::Finished;
use super::folder::Folder;
use super::job::{ScoredModel, Worker};
use super::make::{Maker, base};
use super::options::RunOptions;
use super::outcome::{BASELINE, Comparison, Row, average};
use super::page;
use super::planned_run::PlannedRun;
use super::questions::{Metric, Questions};
use super::results::write_all;
use crate::config::{Config, ConfigError, SaveSteps, Variants};
use crate::train::{common_steps, latest_checkpoint};
use grades_report::table::{Cell, Table};
use grades_report::{Figure, number, svg};

/// What is swept.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// Thresholds.
    pub taus: Vec<f64>,
    /// Shares of the steps in which nothing freezes.
    pub alphas: Vec<f64>,
    /// How many of each, how they are scored, and where they go.
    pub runs: RunOptions,
}

/// A sweep that can be made.
#[derive(Clone, Debug)]
pub struct Sweep {
    folder: Folder,
    questions: Questions,
    metric: Metric,
    base: Option<ScoredModel>,
    adapter: String,
    taus: Vec<f64>,
    alphas: Vec<f64>,
    seeds: Vec<SeedRuns>,
}

/// The runs of one seed.
#[derive(Clone, Debug)]
struct SeedRuns {
    seed: u64,
    trunk: PlannedRun,
    /// Each with the last step that it shares with the trunk.
    runs: Vec<(usize, PlannedRun)>,
}

/// What a sweep found: a row for the trunk, then one for each τ and α, α fastest.
#[derive(Clone, Debug)]
pub struct Grid {
    /// The rows, as those of a comparison.
    pub comparison: Comparison,
    /// Thresholds.
    pub taus: Vec<f64>,
    /// Grace periods.
    pub alphas: Vec<f64>,
}

impl Sweep {
    /// Plans the runs. Of the config's `early_stopping` all holds but `tau` and `alpha`.
    ///
    /// # Errors
    /// If an option or the data is wrong, or the folder holds something else. Nothing has been trained then.
    pub fn new(variants: &Variants, options: &SweepOptions) -> Result<Self, CompareError> {
        let (taus, alphas) = (unique(&options.taus), unique(&options.alphas));
        if taus.is_empty() || alphas.is_empty() {
            return Err(CompareError::Unknown("a sweep needs at least one --tau and one --alpha".to_owned()));
        }
        let questions = options.runs.questions()?;
        let common = variants.config(&[], &[])?;
        if common.load_best_model_at_end {
            let problem = "runs of a sweep share their first steps, whose checkpoints are not those that each would choose from; \
                           remove load_best_model_at_end";
            return Err(CompareError::Unknown(problem.to_owned()));
        }
        let (adapter, out) = (adapter_name(&common), options.runs.folder(&common));
        let mut seeds = Vec::new();
        for seed in options.runs.seeds(common.seed) {
            let mut runs = Vec::new();
            for tau in &taus {
                for alpha in &alphas {
                    let name = format!("tau{tau}-alpha{alpha}-seed{seed}");
                    let config = config(variants, &adapter, *tau, *alpha, seed)
                        .map_err(|source| CompareError::Config { name: name.clone(), source })?;
                    let config = Config { output_dir: out.join(&name), ..config };
                    runs.push((0, PlannedRun { name, config, from: None }));
                }
            }
            // Where runs part depends on α alone.
            for column in 0..alphas.len() {
                let common = common_steps(&runs[column].1.config)?;
                runs.iter_mut().skip(column).step_by(alphas.len()).for_each(|(shared, _)| *shared = common);
            }
            let forks: BTreeSet<usize> = runs.iter().map(|(shared, _)| *shared).filter(|step| *step > 0).collect();
            let name = format!("trunk-seed{seed}");
            let config = Config {
                output_dir: out.join(&name),
                early_stopping: grades::EarlyStopping::None(Default::default()),
                save_strategy: None,
                save_steps: Some(SaveSteps::At(forks.into_iter().collect())),
                save_only_model: false,
                metric_for_best_model: None,
                greater_is_better: None,
                ..runs[0].1.config.clone()
            };
            seeds.push(SeedRuns { seed, trunk: PlannedRun { name, config, from: None }, runs });
        }
        let folder = Folder::open(out)?;
        for of_seed in &seeds {
            folder.check(&of_seed.trunk)?;
            of_seed.runs.iter().try_for_each(|(_, run)| folder.check(run))?;
        }
        let base = base(&common, &questions);
        Ok(Self { folder, questions, metric: options.runs.metric, base, adapter, taus, alphas, seeds })
    }

    /// The folder that everything goes into.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Makes every run that is not there yet, as [`Plan::run`](super::plan::Plan::run). Where there is no trunk to fork from, a run
    /// begins at the beginning.
    ///
    /// # Errors
    /// If the results cannot be written. They are written after each run.
    pub fn run(&self, work: &mut Worker<'_>, log: &mut dyn FnMut(&str)) -> Result<Grid, CompareError> {
        let names = self.taus.iter().flat_map(|tau| self.alphas.iter().map(move |alpha| format!("τ {tau}, α {alpha}")));
        let rows: Vec<Row> =
            [BASELINE.to_owned()].into_iter().chain(names).map(|name| Row::new(&self.adapter, &name)).collect();
        let all = rows.len() * self.seeds.len();
        let comparison = Comparison::new(self.metric, &self.questions, rows, all);
        let mut grid = Grid { comparison, taus: self.taus.clone(), alphas: self.alphas.clone() };
        let mut maker = Maker { folder: &self.folder, questions: &self.questions, work, log };
        maker.base(&mut grid.comparison, self.base.as_ref());
        let mut places = (1..).map(|index| format!("[{index}/{all}]"));
        let mut place = || places.next().unwrap_or_default();
        for SeedRuns { seed, trunk, runs } in &self.seeds {
            let trunk = maker.run(&mut grid.comparison.failures, &place(), trunk);
            let trunk_folder = trunk.as_ref().map(|finished| finished.run.clone());
            grid.comparison.rows[0].runs.extend(trunk.map(|finished| (*seed, finished)));
            for (index, (shared, run)) in runs.iter().enumerate() {
                let from = trunk_folder.as_deref().and_then(|trunk| latest_checkpoint(trunk, *shared));
                let run = PlannedRun { from, ..run.clone() };
                let finished = maker.run(&mut grid.comparison.failures, &place(), &run);
                grid.comparison.rows[index + 1].runs.extend(finished.map(|finished| (*seed, finished)));
                grid.comparison.test();
                grid.write(self.folder.path())?;
            }
        }
        Ok(grid)
    }
}

fn config(variants: &Variants, adapter: &str, tau: f64, alpha: f64, seed: u64) -> Result<Config, ConfigError> {
    let options = ["early_stopping.method=grades".to_owned(), format!("seed={seed}"), "eval_steps=0".to_owned()];
    let mut config = variants.config(&options, &[adapter, "grades", &format!("{adapter}+grades")])?;
    if let grades::EarlyStopping::Grades(grades) = &mut config.early_stopping {
        grades.tau = grades::Tau::Number(tau);
        grades.alpha = Some(alpha);
    }
    config.validate()?;
    Ok(config)
}

fn unique(values: &[f64]) -> Vec<f64> {
    let mut unique: Vec<f64> = Vec::new();
    values.iter().for_each(|value| {
        if !unique.contains(value) {
            unique.push(*value);
        }
    });
    unique
}

impl Grid {
    /// The rows of a τ, one for each α.
    fn row(&self, tau: usize) -> &[Row] {
        let start = 1 + tau * self.alphas.len();
        self.comparison.rows.get(start..start + self.alphas.len()).unwrap_or_default()
    }

    /// A map of means over the seeds: a row a τ, a column an α.
    fn map(&self, name: &str, title: &str, decimals: usize, value: impl Fn(&Finished) -> Option<f64>) -> Figure {
        let values: Vec<Vec<Option<f64>>> =
            (0..self.taus.len()).map(|tau| self.row(tau).iter().map(|row| row.mean(&value)).collect()).collect();
        let taus: Vec<String> = self.taus.iter().map(|tau| format!("τ {tau}")).collect();
        let alphas: Vec<String> = self.alphas.iter().map(|alpha| format!("α {alpha}")).collect();
        let first = [("tau".to_owned(), "τ / α".to_owned())].into_iter();
        let columns = self.alphas.iter().map(|alpha| (format!("alpha{alpha}"), alpha.to_string()));
        let mut table = Table::new(title, first.chain(columns));
        for (tau, row) in self.taus.iter().zip(&values) {
            let cells = row.iter().map(|value| Cell::number(*value, decimals));
            table.row([Cell::text(tau.to_string())].into_iter().chain(cells));
        }
        let trunk = self.comparison.rows.first().and_then(|row| row.mean(&value));
        let note = trunk.map_or(String::new(), |value| {
            format!("Mean over the seeds; without early stopping {}.", number::fixed(value, decimals))
        });
        Figure::fixed(name, title, note, svg::map(title, &taus, &alphas, &values), table)
    }

    /// Accuracy (Table 6), time (Table 7), and what else tells settings apart.
    #[must_use]
    pub fn maps(&self) -> Vec<Figure> {
        let mut maps = Vec::new();
        let metric = self.comparison.metric;
        if !self.comparison.questions.is_empty() {
            let percent = |run: &Finished| average(metric, &run.answers).map(|share| 100.0 * share);
            maps.push(self.map("accuracy", "Accuracy in percent, mean over the tasks", 2, percent));
        }
        maps.push(self.map("seconds", "Time in seconds", 1, |run| Some(run.summary.seconds)));
        let any =
            |value: fn(&Finished) -> Option<f64>| self.comparison.rows.iter().any(|row| row.mean(value).is_some());
        if any(|run| run.summary.val_loss) {
            maps.push(self.map("val_loss", "Validation loss at the end", 4, |run| run.summary.val_loss));
        }
        maps.push(self.map("steps", "Steps made", 0, |run| Some(run.summary.steps as f64)));
        maps
    }

    /// The maps and tables as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Sweep\n");
        for map in self.maps() {
            text.push_str(&format!("\n## {}\n\n{}\n\n{}", map.title, map.note, map.table.markdown()));
        }
        text.push_str(
            "\nThe part that runs share is counted in the time and arithmetic of each, as if each had been made alone.\n",
        );
        text + &self.comparison.sections()
    }

    /// The result as JSON: that of a comparison, whose rows have `tau` and `alpha` (`null` of the trunk).
    #[must_use]
    pub fn json(&self) -> Value {
        let mut json = self.comparison.json();
        let mut rows: Vec<Value> = self.comparison.rows.iter().map(|row| self.comparison.row_json(row)).collect();
        let settings = self.taus.iter().flat_map(|tau| self.alphas.iter().map(move |alpha| (json!(tau), json!(alpha))));
        for (row, (tau, alpha)) in rows.iter_mut().zip([(Value::Null, Value::Null)].into_iter().chain(settings)) {
            row["tau"] = tau;
            row["alpha"] = alpha;
        }
        json["rows"] = rows.into();
        json
    }

    /// Writes `sweep.md`, `sweep.csv`, `sweep.json` and `sweep.html`, in place of older ones.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), CompareError> {
        let html = page::html("Sweep", &self.comparison, folder, &self.maps());
        let json = format!("{:#}\n", self.json());
        write_all(folder, "sweep", [&self.markdown(), &self.comparison.csv(), &json, &html])
    }
}
