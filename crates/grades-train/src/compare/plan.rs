//! Which runs a comparison is made of, and making them.

use super::adapter::{FULL, adapter_name, adapter_options};
use super::contender::{Contender, known};
use super::control::Control;
use super::error::CompareError;
use super::folder::Folder;
use super::frontier::{Frontier, FrontierOptions};
use super::job::{ScoredModel, Worker};
use super::make::{Maker, base};
use super::options::RunOptions;
use super::outcome::{Comparison, Failure, Row};
use super::planned_run::PlannedRun;
use super::questions::{Metric, Questions};
use crate::config::{Adapter, Config, ConfigError, LearningRate, Variants};

/// The name under which the runs of a frontier have options of their own.
const FRONTIER: &str = "frontier";

/// What is compared.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Methods of early stopping, schedules, controls, and names of the config.
    pub methods: Vec<String>,
    /// `full`, or what `adapter` of a config may be; none: what the config has.
    pub adapters: Vec<String>,
    /// The schedules without stopping that all are compared with, if any.
    pub frontier: Option<FrontierOptions>,
    /// How many of each, how they are scored, and where they go.
    pub runs: RunOptions,
}

/// A comparison that can be made.
#[derive(Clone, Debug)]
pub struct Plan {
    folder: Folder,
    questions: Questions,
    metric: Metric,
    base: Option<ScoredModel>,
    rows: Vec<(String, Contender)>,
    /// Seeds outermost, so that an interrupted comparison has whole rows of the first seeds; controls after what they need.
    runs: Vec<Entry>,
    frontiers: Vec<Schedules>,
    seeds: Vec<u64>,
}

/// A run and where it stands in the table.
#[derive(Clone, Debug)]
struct Entry {
    row: usize,
    seed: u64,
    run: PlannedRun,
    /// For a control: it is made from the run of that row, and `run` is what it begins with.
    control: Option<(Control, usize)>,
}

/// The schedules of one adapter's frontier.
#[derive(Clone, Debug)]
struct Schedules {
    adapter: String,
    lengths: Vec<f64>,
    rates: Vec<f64>,
    /// Training without stopping over the whole length, at the config's rate.
    config: Config,
}

impl Plan {
    /// Plans the runs: each contender with each adapter and seed. Those of a seed see the same data in the same order.
    ///
    /// The options of a run are the common ones, then those under `compare:` of its adapter, its method, and
    /// `adapter+method`. Only `validation_loss` validates before the end.
    ///
    /// # Errors
    /// If an option, a name or the data of a benchmark is wrong, or the folder holds something else. Nothing has been
    /// trained then.
    pub fn new(variants: &Variants, options: &CompareOptions) -> Result<Self, CompareError> {
        let questions = options.runs.questions()?;
        let mut adapters = unique(&options.adapters);
        let contenders = contenders(&options.methods, variants)?;
        check_names(variants, &adapters, &contenders)?;
        // Where adapters are named, what only an adapter has may stand among the common options.
        let common = adapters.first().map_or_else(Vec::new, |adapter| adapter_options(adapter));
        let common = variants.config(&common, &[])?;
        if adapters.is_empty() {
            adapters.push(adapter_name(&common));
        }
        let out = options.runs.folder(&common);
        let seeds: Vec<u64> = options.runs.seeds(common.seed).collect();
        let rows: Vec<_> =
            adapters.iter().flat_map(|a| contenders.iter().map(move |c| (a.clone(), c.clone()))).collect();
        let mut runs = Vec::new();
        for seed in &seeds {
            let (mut now, mut then) = (Vec::new(), Vec::new());
            for (row, (adapter, contender)) in rows.iter().enumerate() {
                let name = format!("{adapter}-{}-seed{seed}", contender.to_string().replace(':', "-of-"));
                let control = match contender {
                    Contender::Control(control, of) => Some((*control, reference(&rows, adapter, of, contender)?)),
                    _ => None,
                };
                let like = control.filter(|(control, _)| control.is_like_its_method()).map(|(_, of)| &rows[of].1);
                let config = config(variants, adapter, like.unwrap_or(contender), contender, *seed)
                    .map_err(|source| CompareError::Config { name: name.clone(), source })?;
                let config = Config { output_dir: out.join(&name), ..config };
                let entry = Entry { row, seed: *seed, run: PlannedRun { name, config, from: None }, control };
                if control.is_some() { then.push(entry) } else { now.push(entry) }
            }
            runs.append(&mut now);
            runs.append(&mut then);
        }
        let frontiers = match &options.frontier {
            Some(frontier) => adapters.iter().map(|adapter| Schedules::new(variants, adapter, frontier)).collect(),
            None => Ok(Vec::new()),
        }?;
        let folder = Folder::open(out)?;
        runs.iter().filter(|entry| entry.control.is_none()).try_for_each(|entry| folder.check(&entry.run))?;
        let base = base(&common, &questions);
        Ok(Self { folder, questions, metric: options.runs.metric, base, rows, runs, frontiers, seeds })
    }

    /// The folder that everything goes into.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Makes every run that is not there yet, scores it, and puts all together. A run that fails is recorded, and the
    /// others are made all the same. `log` gets a line about each.
    ///
    /// # Errors
    /// If the results cannot be written. They are written after each run, so that they can be looked at meanwhile.
    pub fn run(&self, work: &mut Worker<'_>, log: &mut dyn FnMut(&str)) -> Result<Comparison, CompareError> {
        let rows = self.rows.iter().map(|(adapter, contender)| Row::new(adapter, &contender.to_string())).collect();
        let mut comparison = Comparison::new(self.metric, &self.questions, rows, self.runs.len());
        let mut maker = Maker { folder: &self.folder, questions: &self.questions, work, log };
        maker.base(&mut comparison, self.base.as_ref());
        for schedules in &self.frontiers {
            schedules.run(&self.seeds, &mut maker, &mut comparison)?;
        }
        for (index, entry) in self.runs.iter().enumerate() {
            let place = format!("[{}/{}]", index + 1, self.runs.len());
            let run = match entry.made(&comparison) {
                Ok(run) => run,
                Err(message) => {
                    comparison.failures.push(Failure { name: entry.run.name.clone(), message });
                    continue;
                }
            };
            let finished = maker.run(&mut comparison.failures, &place, &run);
            comparison.rows[entry.row].runs.extend(finished.map(|finished| (entry.seed, finished)));
            comparison.test();
            comparison.write(self.folder.path())?;
        }
        Ok(comparison)
    }
}

impl Entry {
    /// The run, which a control has only when that of its method is there.
    fn made(&self, comparison: &Comparison) -> Result<PlannedRun, String> {
        let Some((control, of)) = self.control else { return Ok(self.run.clone()) };
        let run = comparison.rows[of].runs.iter().find(|(seed, _)| *seed == self.seed);
        let (_, run) = run.ok_or("the run that it is a control of failed")?;
        let config = control.config(self.run.config.clone(), run)?;
        Ok(PlannedRun { config, ..self.run.clone() })
    }
}

impl Schedules {
    fn new(variants: &Variants, adapter: &str, options: &FrontierOptions) -> Result<Self, CompareError> {
        let unusable = |key: &str, range: &str| CompareError::Unknown(format!("{key} must be {range}"));
        let sorted = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values
        };
        let (lengths, rates) = (sorted(&options.lengths), sorted(&options.rates));
        if lengths.is_empty() || lengths.iter().any(|length| !(*length > 0.0 && *length <= 1.0)) {
            return Err(unusable("--frontier-lengths", "shares of the planned run, above 0 and at most 1"));
        }
        if rates.is_empty() || rates.iter().any(|rate| !(*rate > 0.0 && rate.is_finite())) {
            return Err(unusable("--frontier-rates", "multiples of the learning rate, above 0"));
        }
        let contender = Contender::Method("none".to_owned());
        let mut options = contender.options();
        options.push("lr_scheduler=cosine".to_owned());
        let names = [adapter, "none", &format!("{adapter}+none"), FRONTIER];
        let config = run_config(variants, adapter, options, &names, None)
            .map_err(|source| CompareError::Config { name: FRONTIER.to_owned(), source })?;
        if !config.validates() {
            return Err(CompareError::NoValidation);
        }
        if config.learning_rate.number().is_none() {
            return Err(CompareError::NoRate);
        }
        Ok(Self { adapter: adapter.to_owned(), lengths, rates, config })
    }

    /// Runs all rates at the shortest length with the first seed. At each longer one the search begins with the best of the
    /// length before and goes to lower, else to higher rates as long as they are better, so that the best has a worse neighbour
    /// on both sides, or the grid ends. Then the best of each length is run with the other seeds.
    ///
    /// Dropping the worse half of the rates at each length (successive halving) would cost less, but drops the wrong ones: short
    /// runs want higher rates than long ones.
    fn run(&self, seeds: &[u64], maker: &mut Maker<'_, '_>, comparison: &mut Comparison) -> Result<(), CompareError> {
        let Some((first, others)) = seeds.split_first() else { return Ok(()) };
        let unit = self.config.learning_rate.number().unwrap_or(0.0);
        let rates: Vec<f64> = self.rates.iter().map(|rate| rounded(rate * unit)).collect();
        let mut best: Option<usize> = None;
        for &length in &self.lengths {
            let mut loss = |index: usize| -> Result<f64, CompareError> {
                self.point(maker, comparison, (length, rates[index]), *first)?;
                Ok(self.frontier(comparison).loss_of(length, rates[index], *first))
            };
            let Some(mut at) = best else {
                let losses = (0..rates.len()).map(&mut loss).collect::<Result<Vec<_>, _>>()?;
                best = (0..rates.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b]));
                continue;
            };
            let (start, mut lowest) = (at, loss(at)?);
            for up in [false, true] {
                if up && at != start {
                    break;
                }
                while let Some(next) = if up { Some(at + 1) } else { at.checked_sub(1) }.filter(|i| *i < rates.len()) {
                    let found = loss(next)?;
                    if found >= lowest {
                        break;
                    }
                    (at, lowest) = (next, found);
                }
            }
            best = Some(at);
        }
        let points = self.frontier(comparison).best();
        let points: Vec<(f64, f64)> = points.into_iter().map(|point| (point.length, point.learning_rate)).collect();
        for seed in others {
            for point in &points {
                self.point(maker, comparison, *point, *seed)?;
            }
        }
        Ok(())
    }

    fn frontier<'a>(&self, comparison: &'a mut Comparison) -> &'a mut Frontier {
        let place = comparison.frontiers.iter().position(|frontier| frontier.adapter == self.adapter);
        let place = place.unwrap_or_else(|| {
            comparison.frontiers.push(Frontier::new(&self.adapter));
            comparison.frontiers.len() - 1
        });
        &mut comparison.frontiers[place]
    }

    /// Makes the run of a length and rate with a seed.
    fn point(
        &self,
        maker: &mut Maker<'_, '_>,
        comparison: &mut Comparison,
        (length, learning_rate): (f64, f64),
        seed: u64,
    ) -> Result<(), CompareError> {
        let run = self.planned(maker.folder, length, learning_rate, seed);
        let finished = maker.run(&mut comparison.failures, "[frontier]", &run);
        self.frontier(comparison).add(length, learning_rate, finished.map(|finished| (seed, finished)));
        comparison.write(maker.folder.path())
    }

    fn planned(&self, folder: &Folder, length: f64, learning_rate: f64, seed: u64) -> PlannedRun {
        let name = format!("{}-{FRONTIER}-{length}-lr{learning_rate:e}-seed{seed}", self.adapter);
        let steps = |steps: usize| ((steps as f64 * length).ceil() as usize).max(1);
        let config = Config {
            output_dir: folder.path().join(&name),
            num_epochs: self.config.num_epochs * length,
            max_steps: self.config.max_steps.map(steps),
            learning_rate: LearningRate::At(learning_rate),
            seed,
            ..self.config.clone()
        };
        PlannedRun { name, config, from: None }
    }
}

/// A number to six digits, so that a multiple of a round number is one.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// The contenders of these names, each once.
fn contenders(names: &[String], variants: &Variants) -> Result<Vec<Contender>, CompareError> {
    let mut contenders: Vec<Contender> = Vec::new();
    for name in unique(names) {
        let contender = Contender::named(&name, variants)?;
        if !contenders.contains(&contender) {
            contenders.push(contender);
        }
    }
    match contenders.is_empty() {
        true => Err(CompareError::Unknown(format!("there is no method to compare; known are {}", known().join(", ")))),
        false => Ok(contenders),
    }
}

/// The row that a control is made from.
fn reference(
    rows: &[(String, Contender)],
    adapter: &str,
    of: &str,
    control: &Contender,
) -> Result<usize, CompareError> {
    let row = rows.iter().position(|(a, c)| a == adapter && c.key() == of && !matches!(c, Contender::Control(..)));
    row.ok_or_else(|| {
        CompareError::Unknown(format!(
            "`{control}` is made from the runs of `{of}`, which is not compared: add {of} to --methods, or name another method \
             after the colon"
        ))
    })
}

/// The config of one run of `contender`, which begins as those of `like`.
fn config(
    variants: &Variants,
    adapter: &str,
    like: &Contender,
    contender: &Contender,
    seed: u64,
) -> Result<Config, ConfigError> {
    let with = |contender: &Contender| format!("{adapter}+{}", contender.key());
    let names = [adapter, like.key(), &with(like), contender.key(), &with(contender)];
    // A name that stands twice would do no harm, but its options would be applied twice.
    let names = if like == contender { &names[..3] } else { &names[..] };
    run_config(variants, adapter, like.options(), names, Some(seed))
}

fn run_config(
    variants: &Variants,
    adapter: &str,
    own: Vec<String>,
    names: &[&str],
    seed: Option<u64>,
) -> Result<Config, ConfigError> {
    let mut options = adapter_options(adapter);
    options.extend(own);
    options.extend(seed.map(|seed| format!("seed={seed}")));
    options.push("eval_steps=0".to_owned());
    variants.config(&options, names)
}

fn unique(names: &[String]) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        if !unique.iter().any(|known| known == name) {
            unique.push(name.to_owned());
        }
    }
    unique
}

/// Whether options of variants are of something that may be compared; one that is not compared now is none of our business.
fn check_names(variants: &Variants, adapters: &[String], contenders: &[Contender]) -> Result<(), CompareError> {
    let known_adapter = |name: &str| name == FULL || serde_json::from_value::<Adapter>(name.into()).is_ok();
    if let Some(adapter) = adapters.iter().find(|adapter| !known_adapter(adapter)) {
        return Err(CompareError::Unknown(format!(
            "there is no adapter `{adapter}`; give full, or what `adapter` of a config may be, such as lora"
        )));
    }
    let all = known();
    let known_method = |name: &str| {
        all.contains(&name)
            || name == FRONTIER
            || Control::named(name).is_some()
            || contenders.iter().any(|contender| contender.key() == name)
            || variants.has_method(name)
    };
    let known = |name: &str| match name.split_once('+') {
        Some((adapter, method)) => known_adapter(adapter) && known_method(method),
        None => known_adapter(name) || known_method(name),
    };
    match variants.names().find(|name| !known(name)) {
        Some(name) => Err(CompareError::Unknown(format!(
            "there are options for `{name}`, which is neither an adapter (full, lora, …) nor a method ({}), nor has an \
             `early_stopping` of its own, nor is adapter+method",
            all.join(", ")
        ))),
        None => Ok(()),
    }
}
