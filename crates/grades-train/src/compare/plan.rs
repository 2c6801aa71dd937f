//! Which runs a comparison is made of, and making them.

use super::adapter::{FULL, adapter_name, adapter_options};
use super::error::CompareError;
use super::folder::Folder;
use super::job::{ScoredModel, Worker};
use super::make::{Maker, base};
use super::options::RunOptions;
use super::outcome::{Comparison, Row};
use super::planned_run::PlannedRun;
use super::questions::{Metric, Questions};
use crate::config::{Adapter, Config, ConfigError, Variants};

/// What is compared.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Methods of early stopping.
    pub methods: Vec<String>,
    /// `full`, or what `adapter` of a config may be; none: what the config has.
    pub adapters: Vec<String>,
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
    rows: Vec<(String, String)>,
    /// Seeds outermost, so that an interrupted comparison has whole rows of the first seeds.
    runs: Vec<Entry>,
}

/// A run and where it stands in the table.
#[derive(Clone, Debug)]
struct Entry {
    row: usize,
    seed: u64,
    run: PlannedRun,
}

impl Plan {
    /// Plans the runs: each method with each adapter and seed. Those of a seed see the same data in the same order.
    ///
    /// The options of a run are the common ones, then those under `compare:` of its adapter, its method, and
    /// `adapter+method`. Only `validation_loss` validates before the end.
    ///
    /// # Errors
    /// If an option, a name or the data of a benchmark is wrong, or the folder holds something else. Nothing has been
    /// trained then.
    pub fn new(variants: &Variants, options: &CompareOptions) -> Result<Self, CompareError> {
        let questions = options.runs.questions()?;
        let (mut adapters, methods) = (unique(&options.adapters), unique(&options.methods));
        check_names(variants, &adapters, &methods)?;
        // Where adapters are named, what only an adapter has may stand among the common options.
        let common = adapters.first().map_or_else(Vec::new, |adapter| adapter_options(adapter));
        let common = variants.config(&common, &[])?;
        if adapters.is_empty() {
            adapters.push(adapter_name(&common));
        }
        let out = options.runs.folder(&common);
        let rows: Vec<_> = adapters.iter().flat_map(|a| methods.iter().map(move |m| (a.clone(), m.clone()))).collect();
        let mut runs = Vec::new();
        for seed in options.runs.seeds(common.seed) {
            for (row, (adapter, method)) in rows.iter().enumerate() {
                let name = format!("{adapter}-{method}-seed{seed}");
                let config = config(variants, adapter, method, seed)
                    .map_err(|source| CompareError::Config { name: name.clone(), source })?;
                let config = Config { output_dir: out.join(&name), ..config };
                runs.push(Entry { row, seed, run: PlannedRun { name, config, from: None } });
            }
        }
        let folder = Folder::open(out)?;
        runs.iter().try_for_each(|entry| folder.check(&entry.run))?;
        let base = base(&common, &questions);
        Ok(Self { folder, questions, metric: options.runs.metric, base, rows, runs })
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
        let rows = self.rows.iter().map(|(adapter, method)| Row::new(adapter, method)).collect();
        let mut comparison = Comparison::new(self.metric, &self.questions, rows, self.runs.len());
        let mut maker = Maker { folder: &self.folder, questions: &self.questions, work, log };
        maker.base(&mut comparison, self.base.as_ref());
        for (index, Entry { row, seed, run }) in self.runs.iter().enumerate() {
            let place = format!("[{}/{}]", index + 1, self.runs.len());
            maker.run(&mut comparison, *row, *seed, &place, run);
            comparison.test();
            comparison.write(self.folder.path())?;
        }
        Ok(comparison)
    }
}

/// The config of one run.
fn config(variants: &Variants, adapter: &str, method: &str, seed: u64) -> Result<Config, ConfigError> {
    let mut options = adapter_options(adapter);
    options.extend([format!("early_stopping.method={method}"), format!("seed={seed}"), "eval_steps=0".to_owned()]);
    let both = format!("{adapter}+{method}");
    variants.config(&options, &[adapter, method, &both])
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
fn check_names(variants: &Variants, adapters: &[String], methods: &[String]) -> Result<(), CompareError> {
    let all_methods: Vec<&str> = grades::EarlyStopping::all().iter().map(grades::EarlyStopping::name).collect();
    if methods.is_empty() {
        return Err(CompareError::Unknown(format!(
            "there is no method to compare; known are {}",
            all_methods.join(", ")
        )));
    }
    if let Some(method) = methods.iter().find(|method| !all_methods.contains(&method.as_str())) {
        return Err(CompareError::Unknown(format!(
            "there is no method `{method}`; known are {}",
            all_methods.join(", ")
        )));
    }
    let known_adapter = |name: &str| name == FULL || serde_json::from_value::<Adapter>(name.into()).is_ok();
    if let Some(adapter) = adapters.iter().find(|adapter| !known_adapter(adapter)) {
        return Err(CompareError::Unknown(format!(
            "there is no adapter `{adapter}`; give full, or what `adapter` of a config may be, such as lora"
        )));
    }
    let known = |name: &str| match name.split_once('+') {
        Some((adapter, method)) => known_adapter(adapter) && all_methods.contains(&method),
        None => known_adapter(name) || all_methods.contains(&name),
    };
    match variants.names().find(|name| !known(name)) {
        Some(name) => Err(CompareError::Unknown(format!(
            "there are options for `{name}`, which is neither an adapter (full, lora, …) nor a method ({}) nor both with a + \
             between them",
            all_methods.join(", ")
        ))),
        None => Ok(()),
    }
}
