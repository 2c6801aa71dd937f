//! Where the model of a run comes from: a checkpoint, or a description and random values.

use std::fs;
use std::path::{Path, PathBuf};

use grades_models::config::{HfConfig, Sizes};
use grades_models::generation_config::end_tokens;
use grades_models::model::Outline;
use grades_models::random::Random;
use grades_models::source::LoadOptions;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::{Checkpoint, WeightsError};
use grades_models::{Decoder, registry};
use serde_json::Value;

use super::error::TrainError;
use crate::config::{Config, Init, Model};

/// transformers' default of `initializer_range`.
const STANDARD_DEVIATION: f64 = 0.02;

/// A model before it is loaded.
#[derive(Debug)]
pub(super) struct ModelSource {
    config: HfConfig,
    generation_config: Option<Value>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Pretrained(Box<Checkpoint>),
    Random(Random),
    /// Of a folder that holds the description alone.
    Absent(PathBuf),
}

impl ModelSource {
    /// Reads the description of `model`, the model of a run as it is on disk.
    ///
    /// # Errors
    /// If there is none, or it is not sound.
    pub(super) fn of(model: &Model, config: &Config) -> Result<Self, TrainError> {
        let checkpoint = match (model, config.init) {
            (Model::Checkpoint(path), Init::Pretrained) => Checkpoint::open(path)?,
            (Model::WithMmproj { path, mmproj }, Init::Pretrained) => Checkpoint::open_with_mmproj(path, mmproj)?,
            (Model::WithMmproj { path, mmproj }, Init::Random) => {
                let described = Checkpoint::open_with_mmproj(path, mmproj)?;
                return Self::random(described.config()?.clone(), config.seed);
            }
            (Model::Checkpoint(path), Init::Random) if path.is_file() && !path.ends_with("config.json") => {
                // A GGUF file, whose description is made from its header.
                return Self::random(Checkpoint::open(path)?.config()?.clone(), config.seed);
            }
            (Model::Checkpoint(path) | Model::New { config: path, .. }, _) => {
                return Self::random(read(path)?, config.seed);
            }
        };
        Ok(Self {
            config: HfConfig::new(checkpoint.config()?.clone())?,
            generation_config: checkpoint.generation_config().cloned(),
            values: Values::Pretrained(Box::new(checkpoint)),
        })
    }

    /// The same, also where there is nothing of the model but its description.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(super) fn described(model: &Model, config: &Config) -> Result<Self, TrainError> {
        match (Self::of(model, config), model) {
            (Err(TrainError::Weights(WeightsError::NotACheckpoint { .. })), Model::Checkpoint(folder))
                if folder.join("config.json").is_file() =>
            {
                let config = HfConfig::new(read(folder)?)?;
                Ok(Self { config, generation_config: None, values: Values::Absent(folder.clone()) })
            }
            (source, _) => source,
        }
    }

    fn random(config: Value, seed: u64) -> Result<Self, TrainError> {
        let std = config.get("initializer_range").and_then(Value::as_f64).unwrap_or(STANDARD_DEVIATION) as f32;
        let values = Values::Random(Random { std, ..Random::new(seed) });
        Ok(Self { config: HfConfig::new(config)?, generation_config: None, values })
    }

    /// The model's sizes.
    pub(super) fn sizes(&self) -> Result<Sizes, TrainError> {
        Ok(registry::sizes(&self.config)?)
    }

    /// What it is made of.
    pub(super) fn outline(&self, split_fused: bool) -> Result<Outline, TrainError> {
        Ok(match &self.values {
            Values::Pretrained(checkpoint) => registry::outline_of(&self.config, checkpoint.as_ref(), split_fused)?,
            Values::Random(random) => registry::outline_of(&self.config, random, split_fused)?,
            Values::Absent(_) => registry::outline(&self.config, split_fused)?,
        })
    }

    /// Its architecture.
    pub(super) fn model_type(&self) -> Result<String, TrainError> {
        Ok(self.config.model_type()?)
    }

    /// Its `config.json`.
    pub(super) fn config(&self) -> &Value {
        self.config.value()
    }

    /// Its `generation_config.json`, if it has one.
    pub(super) fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// The tokens that end a text.
    pub(super) fn end_tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, TrainError> {
        match &self.values {
            Values::Pretrained(checkpoint) => Ok(end_tokens(checkpoint, tokenizer)?),
            Values::Random(_) | Values::Absent(_) => Ok(tokenizer.eos_id().into_iter().collect()),
        }
    }

    /// What a file beside the model says of its processor.
    pub(super) fn processor(&self) -> Option<&Value> {
        let Values::Pretrained(checkpoint) = &self.values else { return None };
        checkpoint.processor()
    }

    /// The model with its values.
    pub(super) fn load(&self, options: LoadOptions) -> Result<Decoder, TrainError> {
        Ok(match &self.values {
            Values::Pretrained(checkpoint) => registry::open(checkpoint, options)?,
            Values::Random(random) => registry::load(&self.config, random, options)?,
            Values::Absent(folder) => {
                let missing = "its weights are not there".to_owned();
                return Err(WeightsError::NotACheckpoint { path: folder.clone(), problem: missing }.into());
            }
        })
    }

    /// What happens to quantised weights that do not stay as they are.
    pub(super) fn decoded(&self, config: &Config) -> Option<String> {
        let Values::Pretrained(checkpoint) = &self.values else { return None };
        let types: Vec<String> = checkpoint.quantized_types().iter().map(ToString::to_string).collect();
        if types.is_empty() || config.load_in_4bit {
            return None;
        }
        let why = match config.adapter {
            None => "in which alone they can train",
            Some(_) => "and take less memory with load_in_4bit: true, which leaves them as they are",
        };
        Some(format!("the model's weights in {} are decoded to f32, {why}", types.join(" and ")))
    }
}

/// A `config.json`, or that of a folder.
fn read(path: &Path) -> Result<Value, TrainError> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let text = fs::read_to_string(&path).map_err(|source| TrainError::io(&path, source))?;
    serde_json::from_str(&text).map_err(|error| {
        TrainError::Other(format!("{}: the model's config is not valid JSON ({error})", path.display()))
    })
}
