//! From a checkpoint's config to its model: one line a family.

use std::collections::BTreeSet;
use std::ops::Range;

use grades_kernels::quant::PackedMatrix;
use half::bf16;

use crate::Error;
use crate::adapter::peft;
use crate::config::{self, HfConfig, Sizes};
use crate::families::wiring::{self, Description, LoadLayer};
use crate::families::{
    gemma3_text, llama, mistral, mixtral, nanovlm, phi3, qwen2, qwen2_5_vl, qwen3, qwen3_moe, smollm3, towers,
};
use crate::fields::{Fields, named, warn_once};
use crate::fused_experts::{self, FusedExperts};
use crate::model::{Decoder, Encoder, HEAD, Outline};
use crate::names::{Names, Renamed};
use crate::source::{Builder, Form, LoadOptions, Source, Storage, packed};
use crate::weights::Checkpoint;

/// Reads what an architecture asks of a config, puts right what it means by the sizes, and says how a layer of it is loaded.
type Family = fn(&Fields<'_>, &mut Sizes) -> Result<Box<LoadLayer>, Error>;

/// Every architecture by its `model_type`.
const FAMILIES: &[(&str, Family)] = &[
    ("gemma3_text", gemma3_text::read),
    ("llama", llama::read),
    ("mistral", mistral::read),
    ("mixtral", mixtral::read),
    ("phi3", phi3::read),
    ("qwen2", qwen2::read),
    ("qwen3", qwen3::read),
    ("qwen3_moe", qwen3_moe::read),
    ("smollm3", smollm3::read),
];

/// Reads the whole config of an architecture of several parts.
type WithPictures = fn(&HfConfig) -> Result<Description, Error>;

/// Every architecture that reads pictures and texts.
const WITH_PICTURES: &[(&str, WithPictures)] = &[("nanovlm", nanovlm::describe), ("qwen2_5_vl", qwen2_5_vl::describe)];

/// The architectures that can be loaded, by their `model_type`.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|(name, _)| *name).chain(WITH_PICTURES.iter().map(|(name, _)| *name))
}

/// The vision towers that can be loaded alone, by their `model_type`.
pub fn towers() -> impl Iterator<Item = &'static str> {
    towers::names()
}

/// What a config describes.
fn describe(config: &HfConfig) -> Result<Description, Error> {
    let found = config.model_type()?;
    if let Some((_, describe)) = WITH_PICTURES.iter().find(|(name, _)| *name == found) {
        return describe(config);
    }
    let Some((_, family)) = FAMILIES.iter().find(|(name, _)| *name == found) else {
        return Err(Error::Family { found, known: families().collect::<Vec<_>>().join(", ") });
    };
    config.read(|config| {
        let mut sizes = config::sizes(config)?;
        let layer = family(config, &mut sizes)?;
        Ok(Description { sizes, layer, names: Names::PLAIN, vision: None })
    })
}

/// The vision tower of a config, alone, with the values of a source. What else the checkpoint holds is left out.
///
/// # Errors
/// As [`load`].
pub fn load_tower(config: &HfConfig, source: &dyn Source, options: LoadOptions) -> Result<Encoder, Error> {
    let mut builder = Builder::new(source, options);
    let vision = towers::load(&towers::config(config)?, &mut builder)?;
    Ok(Encoder::new(vision, builder.finish()))
}

/// The sizes of the model that a config describes.
///
/// # Errors
/// When the architecture is unknown, or the config is not sound or asks for what does not exist here.
pub fn sizes(config: &HfConfig) -> Result<Sizes, Error> {
    Ok(describe(config)?.sizes)
}

/// The model of a config with the values of a source.
///
/// # Errors
/// As [`sizes`], when a tensor is missing, cannot be read, or has another shape than the config says, and if a matrix to be
/// packed holds what is no finite number.
pub fn load(config: &HfConfig, source: &dyn Source, options: LoadOptions) -> Result<Decoder, Error> {
    let mut description = describe(config)?;
    let Description { sizes, names, .. } = &mut description;
    let source = &FusedExperts(source);
    let source = &Renamed { source, names: *names };
    sizes.tie_word_embeddings = sizes.tie_word_embeddings && !wiring::has_own_head(source, *names, sizes)?;
    let mut builder = Builder::new(source, options);
    let wiring = wiring::decoder(&mut builder, &description)?;
    Ok(Decoder::new(description.sizes, wiring, builder.finish()))
}

/// What the model of a config is made of, without values: nothing is read, and little is held. They are taken to be in the dtype that
/// the config names. `split_fused` makes the roles inside fused projections units of their own.
///
/// # Errors
/// As [`sizes`].
pub fn outline(config: &HfConfig, split_fused: bool) -> Result<Outline, Error> {
    outline_of(config, &Described(config), split_fused)
}

/// The same, which knows how a source has its values.
///
/// # Errors
/// As [`sizes`].
pub fn outline_of(config: &HfConfig, source: &dyn Source, split_fused: bool) -> Result<Outline, Error> {
    let device = grades_tensor::device("cpu").map_err(|error| Error::Input(error.to_string()))?;
    let options = LoadOptions { storage: Storage::Outline, split_fused, ..LoadOptions::new(device) };
    let model = load(config, &Nothing, options)?;
    let names = model.names();
    Ok(Outline::new(model, &Renamed { source: &FusedExperts(source), names }))
}

/// The vision tower of a config, likewise.
///
/// # Errors
/// As [`load_tower`].
pub fn outline_tower(config: &HfConfig) -> Result<Encoder, Error> {
    let device = grades_tensor::device("cpu").map_err(|error| Error::Input(error.to_string()))?;
    load_tower(config, &Nothing, LoadOptions { storage: Storage::Outline, ..LoadOptions::new(device) })
}

/// Holds no tensor.
struct Nothing;

impl Source for Nothing {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, _: &str, _: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(Vec::new())
    }
}

/// Holds no tensor, but knows what a config says of the dtype of all.
struct Described<'a>(&'a HfConfig);

impl Source for Described<'_> {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, _: &str, _: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(Vec::new())
    }

    fn form(&self, _: &str) -> Form {
        let named = ["torch_dtype", "dtype"].into_iter().find_map(|key| self.0.value().get(key)?.as_str());
        if named == Some("bfloat16") { Form::Half } else { Form::Dense }
    }
}

/// The model of a checkpoint on disk, read tensor by tensor. Tensors that it does not have are named once in a warning.
///
/// # Errors
/// As [`load`], and if a file cannot be read.
pub fn open(checkpoint: &Checkpoint, options: LoadOptions) -> Result<Decoder, Error> {
    let model = load(&HfConfig::new(checkpoint.config()?.clone())?, checkpoint, options)?;
    tell_unused(checkpoint, &model);
    Ok(model)
}

/// Ends of the names of tensors that are computed from the config, and that older programs saved.
const COMPUTED: [&str; 4] = [".rotary_emb.inv_freq", ".rotary_embd.inv_freq", ".masked_bias", ".rotary_emb.cos_cached"];

/// Whether a tensor is one of those.
pub(crate) fn is_computed(name: &str) -> bool {
    COMPUTED.iter().any(|end| name.ends_with(end))
}

/// Names the tensors of a checkpoint that nothing in the model has taken, and an adapter that lies beside them.
fn tell_unused(checkpoint: &Checkpoint, model: &Decoder) {
    let adapter = checkpoint.path().join(peft::CONFIG);
    if adapter.is_file() {
        warn_once(format!(
            "{}: an adapter lies beside the model, which is used without it; use it with the option for adapters, or merge it",
            adapter.display()
        ));
    }
    const NAMED: usize = 5;
    let mut taken: BTreeSet<&str> = model.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
    let fused = taken.iter().filter(|name| !checkpoint.contains(name)).flat_map(|name| fused_experts::holders(name));
    let fused: BTreeSet<String> = fused.collect();
    taken.extend(fused.iter().map(String::as_str));
    let others: Vec<String> = taken.iter().filter_map(|name| (model.names().other)(name)).collect();
    taken.extend(others.iter().map(String::as_str));
    // A head that was not taken is the embedding.
    let unused = checkpoint.names().filter(|name| !taken.contains(name) && !is_computed(name) && *name != HEAD);
    let unused: Vec<&str> = unused.collect();
    if unused.is_empty() {
        return;
    }
    let more = match unused.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let first = named(&unused[..unused.len().min(NAMED)]);
    warn_once(format!(
        "{}: of its tensors {first} not part of the model that config.json describes, and not used{more}",
        checkpoint.path().display()
    ));
}

impl Source for Checkpoint {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.info(name).ok().map(|info| info.shape.clone())
    }

    fn load(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.load_f32(name)?)
    }

    fn form(&self, name: &str) -> Form {
        Checkpoint::form(self, name)
    }

    fn load_half(&self, name: &str, _: &[usize]) -> Result<Vec<bf16>, Error> {
        Ok(Checkpoint::load_half(self, name)?)
    }

    fn load_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>, Error> {
        Ok(Checkpoint::load_rows(self, name, rows)?)
    }

    fn load_packed(&self, name: &str, _: [usize; 2]) -> Result<PackedMatrix, Error> {
        Ok(self.packed(name)?)
    }

    fn load_packed_rows(&self, name: &str, rows: Range<usize>, columns: usize) -> Result<PackedMatrix, Error> {
        match self.packed_rows(name, rows.clone())? {
            Some(matrix) => Ok(matrix),
            None => packed(name, &Checkpoint::load_rows(self, name, rows.clone())?, [rows.len(), columns]),
        }
    }
}
