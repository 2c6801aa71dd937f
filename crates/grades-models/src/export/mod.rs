//! Models and adapters as GGUF files, as llama.cpp's converter and quantiser write them.

mod adapter;
mod container;
mod metadata;
mod mmproj;
mod modelfile;
mod recipe;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use grades_fs::Staging;
use grades_kernels::quant::{GgufType, encode};
use serde_json::Value;

use crate::Error;
use crate::config::{HfConfig, Sizes};
use crate::families::qwen2_5_vl;
use crate::fused_experts::{self, FusedExperts};
use crate::model::{Decoder, HEAD};
use crate::names::Renamed;
use crate::registry;
use crate::source::Source;
use crate::tokenizer::Tokenizer;
use crate::weights::gguf::architecture::Architecture;
use crate::weights::gguf::{interleave, names};
use crate::weights::{Checkpoint, WeightsError};

pub use adapter::save_adapter;
pub use recipe::FileType;

/// The values of a tensor, by its name.
type Values<'a> = dyn Fn(&str) -> Result<Vec<f32>, Error> + 'a;

/// The `model_type` of models whose file of what reads pictures llama.cpp knows.
const SEEING: &str = "qwen2_5_vl";

/// A tensor's name and shape.
type Shaped = (String, Vec<usize>);

/// A tensor of a file, and those of the model that it is made of, one behind another.
struct Stacked<'a> {
    name: String,
    shape: Vec<usize>,
    parts: Vec<&'a Shaped>,
}

/// A model that is to be written.
pub struct Model<'a> {
    name: &'a str,
    config: HfConfig,
    tokenizer: &'a Tokenizer,
    sizes: Sizes,
    architecture: &'static Architecture,
    tensors: Vec<Shaped>,
    values: Box<Values<'a>>,
    /// What reads pictures.
    vision: Option<VisionPart>,
}

/// What of a model reads pictures.
struct VisionPart {
    config: Value,
    tensors: Vec<Shaped>,
    /// The pairs of a head that turn by time, height and width.
    sections: [usize; 3],
}

impl<'a> Model<'a> {
    /// A checkpoint as it is.
    ///
    /// # Errors
    /// Its config is not sound, or llama.cpp has no such architecture.
    pub fn of_checkpoint(name: &'a str, checkpoint: &'a Checkpoint, tokenizer: &'a Tokenizer) -> Result<Self, Error> {
        let config = HfConfig::new(checkpoint.config()?.clone())?;
        let experts = experts_of(&config);
        if config.model_type()? == SEEING {
            let outline = registry::outline(&config, true)?;
            let tensors =
                outline.parameters().iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone()));
            let values = move |name: &str| Renamed { source: checkpoint, names: qwen2_5_vl::NAMES }.load(name, &[]);
            return Self::new(name, config, tokenizer, tensors.collect(), Box::new(values));
        }
        if experts > 0 {
            // They may lie in one tensor or apart.
            let outline = registry::outline(&config, true)?;
            let tensors =
                outline.parameters().iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone()));
            let values = move |name: &str| FusedExperts(checkpoint).load(name, &[]);
            return Self::new(name, config, tokenizer, tensors.collect(), Box::new(values));
        }
        let tied = registry::sizes(&config)?.tie_word_embeddings;
        // One that is the embedding again says nothing.
        let again = tied
            && checkpoint.contains(HEAD)
            && checkpoint.load_f32(HEAD)? == checkpoint.load_f32("model.embed_tokens.weight")?;
        let left_out = |name: &str| registry::is_computed(name) || again && name == HEAD;
        let tensors = checkpoint.names().filter(|name| !left_out(name));
        let tensors = tensors.map(|name| Ok((name.to_owned(), checkpoint.info(name)?.shape.clone())));
        let tensors = tensors.collect::<Result<_, WeightsError>>()?;
        Self::new(name, config, tokenizer, tensors, Box::new(|name| Ok(checkpoint.load_f32(name)?)))
    }

    /// A model in memory, its adapters folded in; `config` is that of its checkpoint.
    ///
    /// # Errors
    /// As [`of_checkpoint`](Self::of_checkpoint).
    pub fn of_decoder(
        name: &'a str,
        config: &Value,
        model: &'a Decoder,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self, Error> {
        let weights = model.weights();
        let tensors = weights.iter().map(|weight| (weight.name().to_owned(), weight.shape().to_vec())).collect();
        let values = move |name: &str| match weights.iter().find(|weight| weight.name() == name) {
            Some(weight) => Ok(weight.values().into_owned()),
            None => Err(WeightsError::Values(format!("it has no tensor {name}")).into()),
        };
        Self::new(name, HfConfig::new(config.clone())?, tokenizer, tensors, Box::new(values))
    }

    fn new(
        name: &'a str,
        config: HfConfig,
        tokenizer: &'a Tokenizer,
        tensors: Vec<Shaped>,
        values: Box<Values<'a>>,
    ) -> Result<Self, Error> {
        let (sizes, architecture) = (registry::sizes(&config)?, architecture(&config)?);
        if architecture.model_type != SEEING {
            return Ok(Self { name, config, tokenizer, sizes, architecture, tensors, values, vision: None });
        }
        // The language model is a Qwen 2 here, and what reads pictures a file of its own.
        let tied = config.value().get("tie_word_embeddings").and_then(Value::as_bool);
        let (language, sections) = qwen2_5_vl::language(config.value(), tied)?;
        let (of_pictures, tensors) = tensors.into_iter().partition(|(name, _): &Shaped| name.starts_with("visual."));
        let empty = || Value::Object(serde_json::Map::new());
        let part = config.value().get("vision_config").cloned().unwrap_or_else(empty);
        let vision = Some(VisionPart { config: part, tensors: of_pictures, sections });
        Ok(Self { name, config: language, tokenizer, sizes, architecture, tensors, values, vision })
    }

    /// Writes a file of each type, and a `Modelfile` of the first, into the folder `dir`: all of them or none. Gives the files
    /// of the model.
    ///
    /// # Errors
    /// If a file is in the way, a tensor has no place in a GGUF file or holds what is no number, or the disk refuses.
    pub fn save(&self, dir: &Path, types: &[FileType]) -> Result<Vec<PathBuf>, Error> {
        let names: Vec<String> = types.iter().map(|kind| format!("{}-{kind}.gguf", self.name)).collect();
        let mut files = names.clone();
        files.push(modelfile::NAME.to_owned());
        refuse_existing(dir, &files)?;
        let staging = Staging::beside(dir).map_err(WeightsError::from)?;
        for (name, kind) in names.iter().zip(types) {
            self.write(&staging.path().join(name), *kind)?;
        }
        let text = modelfile::text(names.first().map_or("", |name| name), self.config.value(), self.tokenizer);
        grades_fs::create(&staging.path().join(modelfile::NAME), text).map_err(WeightsError::from)?;
        publish(staging, dir, &files)?;
        Ok(names.iter().map(|name| dir.join(name)).collect())
    }

    fn write(&self, path: &Path, kind: FileType) -> Result<(), Error> {
        let tied = !self.tensors.iter().any(|(name, _)| name == HEAD);
        let facts = recipe::Facts { tied, experts: experts_of(&self.config) };
        let (metadata, factors) = metadata::of_model(self, kind)?;
        let mut entries: Vec<container::Entry> = Vec::new();
        let mut sources = Vec::new();
        for (name, values) in factors {
            entries.push(container::Entry { name, shape: vec![values.len()], kind: GgufType::F32 });
            sources.push(Origin::Factors(values));
        }
        for Stacked { name, shape, parts } in stacked(&self.tensors) {
            let gguf = names::from_hugging_face(&name, self.architecture).ok_or_else(|| {
                let architecture = self.architecture.name;
                Error::Input(format!("the tensor {name} has no place in a GGUF file of a {architecture}"))
            })?;
            let kind = recipe::of_tensor(&gguf, &shape, kind, &self.sizes, &facts);
            entries.push(container::Entry { name: gguf, shape, kind });
            sources.push(Origin::Tensors(parts));
        }
        container::write(path, &metadata, &entries, |index| {
            let values = match &sources[index] {
                Origin::Factors(values) => values.clone(),
                Origin::Tensors(parts) => {
                    let converted = parts.iter().map(|(name, shape)| self.converted(name, shape));
                    converted.collect::<Result<Vec<_>, _>>()?.concat()
                }
            };
            let entry = &entries[index];
            encode(entry.kind, &values).map_err(|error| Error::Input(format!("tensor {}: {error}", entry.name)))
        })
    }

    /// The values of a tensor as llama.cpp wants them.
    fn converted(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let mut values = (self.values)(name)?;
        if values.len() != shape.iter().product::<usize>() {
            let (expected, values) = (shape.iter().product(), values.len());
            return Err(WeightsError::WrongSize { name: name.into(), shape: shape.to_vec(), expected, values }.into());
        }
        if name.ends_with("norm.weight") && self.architecture.norm_shift != 0.0 {
            values.iter_mut().for_each(|value| *value += self.architecture.norm_shift);
        }
        Ok(match heads(name, self.architecture, &self.sizes) {
            Some(heads) => interleave(&values, shape[0], heads),
            None => values,
        })
    }
}

/// Where the values of a tensor come from.
enum Origin<'a> {
    /// One behind another.
    Tensors(Vec<&'a Shaped>),
    /// Of the rotary positions.
    Factors(Vec<f32>),
}

/// Tensors with names and shapes as a GGUF file has them, and what each is made of: the matrices of all experts are one.
fn stacked(tensors: &[Shaped]) -> Vec<Stacked<'_>> {
    let mut found: Vec<Stacked<'_>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for tensor @ (name, shape) in tensors {
        match fused_experts::stacked(name) {
            Some((holder, Some(_))) => {
                let place = *places.entry(holder.clone()).or_insert(found.len());
                if place == found.len() {
                    found.push(Stacked { name: holder, shape: [&[0], shape.as_slice()].concat(), parts: Vec::new() });
                }
                found[place].shape[0] += 1;
                found[place].parts.push(tensor);
            }
            Some((router, None)) => found.push(Stacked { name: router, shape: shape.clone(), parts: vec![tensor] }),
            None => found.push(Stacked { name: name.clone(), shape: shape.clone(), parts: vec![tensor] }),
        }
    }
    found
}

/// Experts of a layer, by the config.
fn experts_of(config: &HfConfig) -> usize {
    let number = |key: &str| config.value().get(key).and_then(Value::as_u64);
    number("num_local_experts").or_else(|| number("num_experts")).unwrap_or(0) as usize
}

/// The architecture that llama.cpp has for a config.
fn architecture(config: &HfConfig) -> Result<&'static Architecture, Error> {
    let found = config.model_type()?;
    if found == "nanovlm" {
        return Err(Error::Input(
            "llama.cpp puts pictures into texts otherwise than a nanoVLM reads them, so there is no GGUF file of one"
                .into(),
        ));
    }
    Architecture::of_model(&found).ok_or_else(|| Error::Family { found, known: Architecture::model_types().join(", ") })
}

/// The number of heads whose rows are interleaved in a tensor, if they are.
fn heads(name: &str, architecture: &Architecture, sizes: &Sizes) -> Option<usize> {
    let of = |part: &str| architecture.interleaved && name.contains(part);
    match () {
        () if of(".self_attn.q_proj.") => Some(sizes.num_attention_heads),
        () if of(".self_attn.k_proj.") => Some(sizes.num_key_value_heads),
        () => None,
    }
}

/// Fails if one of `files` is in the folder already.
fn refuse_existing<'f>(dir: &Path, files: impl IntoIterator<Item = &'f String>) -> Result<(), Error> {
    match files.into_iter().map(|file| dir.join(file)).find(|path| path.exists()) {
        Some(path) => Err(WeightsError::Exists { path }.into()),
        None => Ok(()),
    }
}

/// Lets `files` appear in the folder: a new folder whole.
fn publish(staging: Staging, dir: &Path, files: &[String]) -> Result<(), Error> {
    let published = if dir.exists() { staging.publish_into(files) } else { staging.publish() };
    Ok(published.map_err(WeightsError::from)?)
}
