//! What a run is made of before its model is loaded: the model's description, the tokenizer, and the data in batches.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use grades::{EarlyStopping, Role, RunFacts, Tau, UnitId};
use grades_models::fields::warn_once;
use grades_models::tokenizer::Tokenizer;

use super::contamination::{self, Contamination};
use super::error::TrainError;
use super::model_source::ModelSource;
use super::model_vision;
use super::preference::{Objective, PreferenceLoss, Preferences, Rows};
use super::state::idle_until;
use super::tokenised::{self, Encoding};
use super::validation::Validation;
use crate::config::{Config, Model};
use crate::data::feed::Stream;
use crate::data::stream::{Fresh, Steps};
use crate::data::{self, DataError, Feed, Held, Loader, MixStrategy, Tokenized, Vision, mix, preference, split};
use crate::encoder::Encoder;
use crate::hub::Hub;
use crate::schedule::total_steps;

pub(super) struct Prepared {
    /// The config with the model's context as bound of its samples.
    pub(super) config: Config,
    pub(super) source: ModelSource,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Rows of the embedding.
    pub(super) vocab_size: usize,
    /// How the model sees pictures, if it does.
    pub(super) vision: Option<Arc<Vision>>,
    /// Where the model's other files are, where that is a folder.
    pub(super) model_folder: Option<PathBuf>,
    pub(super) feed: Feed,
    pub(super) validation: Validation,
    /// Samples of training; of preferences their rows.
    pub(super) training_samples: usize,
    /// What is learnt; of preferences before the model was asked what it makes of them.
    pub(super) objective: Objective,
    pub(super) dropped_samples: usize,
    pub(super) truncated_samples: usize,
    /// Training samples that equal an earlier one.
    pub(super) duplicates: usize,
    /// Questions of benchmarks among them, where they were looked for.
    pub(super) contamination: Option<Contamination>,
    /// Training rows that cannot be used and are left out.
    pub(super) bad_rows: usize,
    pub(super) planned_steps: usize,
}

impl Prepared {
    pub(super) fn of(config: &Config) -> Result<Self, TrainError> {
        let model = config.model.fetched(&Hub::from_env()).map_err(DataError::from)?;
        Self::with(config, &model, ModelSource::of(&model, config)?)
    }

    /// The same without the weights, which need not be there.
    pub(super) fn without_weights(config: &Config) -> Result<Self, TrainError> {
        let model = config.model.described(&Hub::from_env()).map_err(DataError::from)?;
        Self::with(config, &model, ModelSource::described(&model, config)?)
    }

    fn with(config: &Config, model: &Model, source: ModelSource) -> Result<Self, TrainError> {
        let tokenizer = model_vision::tokenizer(source.config(), model.tokenizer())?;
        let tokenizer = Arc::new(config.with_chat_template(tokenizer).map_err(TrainError::Other)?);
        let sizes = source.sizes()?;
        tokenizer.check_fits(sizes.vocab_size)?;
        // A model's context bounds its samples, whatever the (default) limit says.
        let sequence_len = config.sequence_len.min(sizes.max_position_embeddings);
        let config = Config { sequence_len, ..config.clone() };
        let folder = Some(model.tokenizer().to_owned()).filter(|folder| folder.is_dir());
        let vision = model_vision::of_model(source.config(), model.tokenizer(), &tokenizer, source.processor())?;
        let vision = vision.map(|vision| Arc::new(config.image_backend.of(vision)));
        let encoder = Encoder::new(&tokenizer, sizes.vocab_size).with_variables(config.chat_template_kwargs.clone());
        let data = match config.preference_loss() {
            Some(loss) => Data::of_preferences(loss, &encoder, &config)?,
            None => {
                let (loaded, feed) = match config.streaming {
                    true if vision.is_some() => {
                        let problem = "`streaming` is of texts, and this model reads pictures; remove it";
                        return Err(TrainError::Other(problem.to_owned()));
                    }
                    true => (Loaded::default(), Feed::Stream(stream(&config, tokenizer.clone(), sizes.vocab_size))),
                    false => whole(&config, (&encoder, &tokenizer, sizes.vocab_size), vision.as_deref())?,
                };
                let validation = match config.test_datasets.is_empty() {
                    true => Validation::of_samples(&loaded.kept_back, &config)?,
                    false => Validation::of_sets(&config, (&encoder, &tokenizer, sizes.vocab_size), vision.as_deref())?,
                };
                Data { samples: feed.samples().len(), loaded, feed, validation, objective: Objective::Tokens }
            }
        };
        let Data { loaded, feed, validation, samples: training_samples, objective } = data;
        let contamination = contamination::look(&config)?;
        if let Some(found) = contamination.as_ref().filter(|found| found.rows > 0) {
            warn_once(format!(
                "contamination: {found}; scores on these will be too high, so remove the rows, or say so beside the scores"
            ));
        }
        // A stream has `max_steps`.
        let planned_steps = total_steps(feed.steps_per_epoch().unwrap_or(1), config.num_epochs, config.max_steps);
        Ok(Self {
            config,
            source,
            tokenizer,
            vision,
            model_folder: folder,
            vocab_size: sizes.vocab_size,
            feed,
            dropped_samples: loaded.dropped + validation.dropped,
            truncated_samples: loaded.truncated + validation.truncated,
            validation,
            duplicates: loaded.duplicates,
            contamination,
            training_samples,
            objective,
            bad_rows: loaded.bad_rows,
            planned_steps,
        })
    }

    /// The first training samples of a stream, at most so many.
    pub(super) fn first(&self, count: usize) -> Result<Vec<Tokenized>, DataError> {
        let variables = self.config.chat_template_kwargs.clone();
        let encoder = Encoder::new(&self.tokenizer, self.vocab_size).with_variables(variables);
        data::stream::first(&self.config.datasets, &encoder, &self.config.stream_options(), count)
    }

    /// Steps of an epoch. Of a stream the whole run is one: no sample is known to come again.
    pub(super) fn epoch_steps(&self) -> usize {
        self.feed.steps_per_epoch().unwrap_or(self.planned_steps)
    }

    /// The options of early stopping with what the run tells.
    pub(super) fn early_stopping(&self) -> EarlyStopping {
        self.config.early_stopping.clone().for_run(&RunFacts {
            warmup_steps: self.config.schedule(self.planned_steps).warmup_steps,
            epoch_steps: self.epoch_steps(),
            seed: self.config.seed,
        })
    }
}

/// What reading all training data has come to.
#[derive(Default)]
struct Loaded {
    kept_back: Vec<Held>,
    dropped: usize,
    truncated: usize,
    duplicates: usize,
    bad_rows: usize,
}

/// All training data, known before the first step.
fn whole(config: &Config, encoding: Encoding<'_>, vision: Option<&Vision>) -> Result<(Loaded, Feed), TrainError> {
    let mut samples = tokenised::load(config, &config.datasets, encoding, vision)?;
    let duplicates = samples.duplicates();
    if config.dataset_exact_deduplication {
        samples.deduplicate();
    }
    let (dropped, truncated, bad_rows) = (samples.dropped, samples.truncated, samples.skipped);
    // Before sets are mixed, which may take a sample several times: what is kept back must not train.
    let (train, kept_back) = split::split(samples.by_row(), config.val_set_size, config.seed)?;
    let train = train.into_iter().flatten().collect();
    let kept_back = kept_back.into_iter().flatten().map(|(_, sample)| sample).collect();
    let loader = Loader::new(mix(train, config)?, config.loader_options());
    Ok((Loaded { kept_back, dropped, truncated, duplicates, bad_rows }, loader.into()))
}

/// Training data that are read as training goes on.
fn stream(config: &Config, tokenizer: Arc<Tokenizer>, vocab_size: usize) -> Stream {
    let (options, specs) = (config.stream_options(), config.datasets.clone());
    let (loader, variables) = (options.loader, config.chat_template_kwargs.clone());
    let produce = move |steps: &SyncSender<Result<Fresh, DataError>>| {
        let encoder = Encoder::new(&tokenizer, vocab_size).with_variables(variables.clone());
        let mut made = match Steps::new(&specs, &encoder, &options) {
            Ok(made) => made,
            Err(error) => return drop(steps.send(Err(error))),
        };
        loop {
            let step = made.step();
            let is_last = step.is_err();
            if steps.send(step).is_err() || is_last {
                return;
            }
        }
    };
    Stream::new(Arc::new(produce), loader, config.sequence_len)
}

/// The samples of several sets, each with its set, as `mix_strategy` puts them together.
fn mix(samples: Vec<(usize, Held)>, config: &Config) -> Result<Vec<Held>, DataError> {
    if config.mix_strategy == MixStrategy::Concat {
        return Ok(samples.into_iter().map(|(_, sample)| sample).collect());
    }
    let mut sets: Vec<Vec<Held>> = vec![Vec::new(); config.datasets.len()];
    for (set, sample) in samples {
        sets[set].push(sample);
    }
    let lengths: Vec<usize> = sets.iter().map(Vec::len).collect();
    let shares = config.interleave_probs.as_ref().map(|shares| shares.0.as_slice());
    let order = mix::mixed(&lengths, config.mix_strategy, shares, config.seed)?;
    if order.is_empty() {
        return Err(DataError::Format(
            "`mix_strategy: interleave_under` ends with the first set that has no more, and of one no row is left to begin with; remove \
             the set, or take interleave_over"
                .to_owned(),
        ));
    }
    Ok(order.into_iter().map(|(set, place)| sets[set][place].clone()).collect())
}

/// The data of a run.
struct Data {
    loaded: Loaded,
    feed: Feed,
    validation: Validation,
    /// How many are trained on.
    samples: usize,
    objective: Objective,
}

impl Data {
    fn of_preferences(loss: PreferenceLoss, encoder: &Encoder<'_>, config: &Config) -> Result<Self, DataError> {
        let unpaired = matches!(loss, PreferenceLoss::Kto { .. });
        let data = preference::load(&config.datasets, encoder, config.token_options(), unpaired)?;
        let (dropped, truncated, bad_rows) = (data.dropped, data.truncated, data.skipped);
        let loaded = Loaded { dropped, truncated, bad_rows, ..Loaded::default() };
        let (train, validation) = split::split(data.rows, config.val_set_size, config.seed)?;
        let samples = [train.len(), validation.len()];
        let (train, validation) = (Rows::of(train, config, Some(config.seed)), Rows::of(validation, config, None));
        let desirable = [train.desirable.clone(), validation.desirable.clone()];
        Ok(Self {
            loaded,
            samples: samples[0],
            validation: Validation { samples: samples[1], ..validation.in_order().into() },
            feed: train.loader(config.loader_options()).into(),
            objective: Objective::Preference(Preferences::new(loss, desirable)),
        })
    }
}

/// The last step after which a run is still the same as one without early stopping: its method has asked for nothing
/// until then. A checkpoint of that one serves it. 0 where there is no such step.
///
/// # Errors
/// If the model's description or the data cannot be read, or an option does not fit the number of steps.
pub fn common_steps(config: &Config) -> Result<usize, TrainError> {
    let prepared = Prepared::of(config)?;
    let mut method = prepared.early_stopping();
    if let EarlyStopping::Grades(options) = &mut method
        && matches!(options.tau, Tau::ByKey(_))
    {
        // When a method asks does not depend on which matrices there are, but keys must name some.
        options.tau = Tau::Number(0.5);
    }
    let unit = UnitId::language(0, Role::Q);
    let policy = method.build(&[unit], prepared.planned_steps)?;
    let same = |step: &usize| idle_until(policy.as_ref(), &[unit], *step);
    Ok((1..prepared.planned_steps).take_while(same).last().unwrap_or(0))
}
