//! A model that is used rather than trained: with its tokenizer, how it sees pictures, and what ends its answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grades_models::generate::{Generated, Limits, generate_each};
use grades_models::generation_config::{end_of_turn, end_tokens};
use grades_models::parameters::Groups;
use grades_models::sampling::{Sampler, SamplingOptions};
use grades_models::source::LoadOptions;
use grades_models::template::ChatTemplate;
use grades_models::tokenizer::Tokenizer;
use grades_models::weights::Checkpoint;
use grades_models::{Decoder, Inputs, peft, registry};
use grades_tensor::device;

use crate::config::{ImageBackend, Precision};
use crate::data::{Batch, DataError, Tokenized, Vision};
use crate::encoder::Encoder;
use crate::hub::Hub;
use crate::train::outputs::{Options, Place};
use crate::train::vision_cache::VisionCache;
use crate::train::{Reader, TrainError, model_vision};

/// What is kept of pictures that come in several prompts, at most, in bytes.
const KEPT: u64 = 2_000_000_000;

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loading<'a> {
    /// The folder of an adapter for it, as PEFT stores them.
    pub adapter: Option<&'a Path>,
    /// Whether its adapter is added to its weights, where these are dense, so that it needs no products of its own.
    pub fold_adapter: bool,
    /// Whether its matrices are held in 4 bits.
    pub load_in_4bit: bool,
    /// Whose resize pictures go through.
    pub image_backend: ImageBackend,
    /// The dtype of its products.
    pub precision: Precision,
}

/// A loaded model.
#[derive(Debug)]
pub struct Loaded {
    /// The model, of which nothing trains.
    pub model: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How it sees pictures, if it does.
    pub vision: Option<Arc<Vision>>,
    /// What ends a text.
    end_of_text: Vec<u32>,
    reader: Reader,
}

impl Loaded {
    /// A model folder, a GGUF file, or a model of the Hub, which is fetched.
    ///
    /// # Errors
    /// If it cannot be fetched or read, or its files do not fit one another.
    pub fn open(path: &Path, options: Loading<'_>) -> Result<Self, TrainError> {
        let path = Hub::from_env().model(path).map_err(DataError::from)?;
        let checkpoint = Checkpoint::open(&path)?;
        let config = checkpoint.config()?;
        let load = LoadOptions::new(device("auto").map_err(|error| TrainError::Other(error.to_string()))?)
            .in_4bit(options.load_in_4bit)
            .fixed(Groups::ALL);
        // A large vocabulary takes about as long to read as a small model.
        let (model, tokenizer) =
            rayon::join(|| registry::open(&checkpoint, load), || model_vision::tokenizer(config, &path));
        let (mut model, mut tokenizer) = (model?, tokenizer?);
        if let Some(adapter) = options.adapter {
            tokenizer = tokenizer.with_template_in(adapter)?;
            model = peft::attach(model, adapter)?;
        }
        model.parameters_mut().set_trainable(|_| Some(false));
        if options.fold_adapter {
            model.fold_frozen();
        }
        tokenizer.check_fits(model.sizes().vocab_size)?;
        model.set_dtype(options.precision.resolve());
        let vision = model_vision::of_model(config, &path, &tokenizer, checkpoint.processor())?;
        let vision = match (vision, options.image_backend) {
            (None, backend) if backend != ImageBackend::Auto => {
                return Err(TrainError::Other(format!(
                    "{}: the model reads no pictures, so image_backend: {backend} has no meaning; leave it out",
                    path.display()
                )));
            }
            (vision, backend) => vision.map(|vision| Arc::new(backend.of(vision))),
        };
        let end_of_text = end_tokens(&checkpoint, &tokenizer)?;
        let kept = Options { place: Place::Memory, size: KEPT, ..Options::default() };
        let cache = VisionCache::new(kept, PathBuf::new(), &[]);
        let reader = Reader::new(vision.clone(), cache);
        Ok(Self { model, tokenizer, vision, end_of_text, reader })
    }

    /// Its tokenizer and chat template, as prompts are made with them.
    #[must_use]
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder::new(&self.tokenizer, self.model.sizes().vocab_size)
    }

    /// The tokens that end a text, `of_turn` also those that end a turn of a chat.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn ends(&self, of_turn: bool) -> Result<Vec<u32>, TrainError> {
        let ends = self.end_of_text.clone();
        if of_turn { with_end_of_turn(ends, &self.tokenizer) } else { Ok(ends) }
    }

    /// The most tokens of a text that turn alike however far it grows: of the model's context, as much as needs not be read again.
    #[must_use]
    pub fn even_context(&self) -> usize {
        let (mut even, mut beyond) = (1, self.model.sizes().max_position_embeddings + 1);
        while beyond - even > 1 {
            let middle = even.midpoint(beyond);
            if self.model.turns_anew(1, middle) { beyond = middle } else { even = middle }
        }
        even
    }

    /// Prompts, side by side, as the model reads them.
    ///
    /// # Errors
    /// A picture cannot be decoded, or the model does not read one of such a size.
    pub fn inputs(&mut self, prompts: &[Tokenized]) -> Result<Inputs, TrainError> {
        inputs(&self.model, &mut self.reader, prompts)
    }

    /// What it answers to each of some prompts, all at once, with its likeliest tokens, each to the end of its turn.
    ///
    /// # Errors
    /// As of [`inputs`](Self::inputs); a prompt is longer than the model's context.
    pub fn answers(&mut self, prompts: &[Tokenized], max_new_tokens: usize) -> Result<Vec<Generated>, TrainError> {
        let limits = Limits { max_new_tokens, stop: self.ends(true)? };
        written(&self.model, &self.tokenizer, &mut self.reader, prompts, &limits)
    }
}

/// The tokens that end an answer, where `ends` end a text: those and the one that ends a turn of a chat.
pub(crate) fn with_end_of_turn(mut ends: Vec<u32>, tokenizer: &Tokenizer) -> Result<Vec<u32>, TrainError> {
    if let Some(Ok(template)) = ChatTemplate::of(tokenizer) {
        ends.extend(end_of_turn(&template, tokenizer)?);
    }
    Ok(ends)
}

/// Prompts, side by side, as a model reads them with this reader.
pub(crate) fn inputs(model: &Decoder, reader: &mut Reader, prompts: &[Tokenized]) -> Result<Inputs, TrainError> {
    let mut batch = Batch::default();
    prompts.iter().enumerate().for_each(|(index, prompt)| batch.push_prompt(index, prompt));
    reader.read(model, &batch)
}

/// What a model answers to each of some prompts, all at once, with its likeliest tokens. It need not be loaded for that: one that trains
/// answers, too.
pub(crate) fn written(
    model: &Decoder,
    tokenizer: &Tokenizer,
    reader: &mut Reader,
    prompts: &[Tokenized],
    limits: &Limits,
) -> Result<Vec<Generated>, TrainError> {
    let inputs = inputs(model, reader, prompts)?;
    let greedy = Sampler::new(SamplingOptions::default()).map_err(grades_models::Error::from)?;
    let mut samplers = vec![greedy; prompts.len()];
    Ok(generate_each(model, tokenizer, &inputs, limits, &mut samplers)?)
}

#[cfg(test)]
#[path = "loaded_tests.rs"]
mod tests;
