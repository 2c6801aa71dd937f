//! What a run is made of before its model is loaded: the model's description, the tokenizer, and the data in batches.

use std::path::PathBuf;
use std::sync::Arc;

use grades::{EarlyStopping, Role, RunFacts, Tau, UnitId};
use grades_models::tokenizer::Tokenizer;

use super::error::TrainError;
use super::model_source::ModelSource;
use super::model_vision;
use super::state::idle_until;
use crate::config::{Config, Model};
use crate::data::{self, Batch, DataError, Loader, Vision, batch, split};
use crate::encoder::Encoder;
use crate::hub::Hub;
use crate::schedule::total_steps;

pub(super) struct Prepared {
    /// The config with the model's context as bound of its samples.
    pub(super) config: Config,
    pub(super) source: ModelSource,
    pub(super) tokenizer: Tokenizer,
    /// How the model sees pictures, if it does.
    pub(super) vision: Option<Arc<Vision>>,
    /// Where the model's other files are, where that is a folder.
    pub(super) model_folder: Option<PathBuf>,
    pub(super) loader: Loader,
    pub(super) validation: Vec<Batch>,
    pub(super) validation_samples: usize,
    pub(super) dropped_samples: usize,
    pub(super) truncated_samples: usize,
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
        let sizes = source.sizes()?;
        tokenizer.check_fits(sizes.vocab_size)?;
        // A model's context bounds its samples, whatever the (default) limit says.
        let sequence_len = config.sequence_len.min(sizes.max_position_embeddings);
        let config = Config { sequence_len, ..config.clone() };
        let folder = Some(model.tokenizer().to_owned()).filter(|folder| folder.is_dir());
        let vision = model_vision::of_model(source.config(), model.tokenizer(), &tokenizer, source.processor())?;
        let vision = vision.map(|vision| match config.image_backend.backend() {
            None => Arc::new(vision),
            Some(backend) => Arc::new(Vision { processor: vision.processor.with_backend(backend), ..vision }),
        });
        let encoder = Encoder::new(&tokenizer, sizes.vocab_size);
        let samples = data::load(&config.datasets, &encoder, vision.as_deref(), config.token_options())?;
        let (dropped_samples, truncated_samples) = (samples.dropped, samples.truncated);
        let (train, validation) = split::split(samples.samples, config.val_set_size, config.seed)?;
        let validation_samples = validation.len();
        let validation = batch::in_order(&validation, config.micro_batch_size, config.packing());
        let loader = Loader::new(train, config.loader_options());
        let planned_steps = total_steps(loader.steps_per_epoch(), config.num_epochs, config.max_steps);
        Ok(Self {
            config,
            source,
            tokenizer,
            vision,
            model_folder: folder,
            loader,
            validation,
            validation_samples,
            dropped_samples,
            truncated_samples,
            planned_steps,
        })
    }

    /// The options of early stopping with what the run tells.
    pub(super) fn early_stopping(&self) -> EarlyStopping {
        self.config.early_stopping.clone().for_run(&RunFacts {
            warmup_steps: self.config.schedule(self.planned_steps).warmup_steps,
            epoch_steps: self.loader.steps_per_epoch(),
            seed: self.config.seed,
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
