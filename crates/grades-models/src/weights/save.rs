//! Saving a checkpoint in the Hugging Face layout.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use grades_fs::Staging;
use half::{bf16, f16};
use safetensors::tensor::{Dtype as Stored, Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::error::{Result, WeightsError};

/// The floating-point type of saved weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveDtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32, rounded to nearest even.
    BF16,
}

impl SaveDtype {
    fn stored(self) -> Stored {
        match self {
            Self::F32 => Stored::F32,
            Self::F16 => Stored::F16,
            Self::BF16 => Stored::BF16,
        }
    }

    /// As `torch_dtype` in a config spells it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    fn write(self, values: &[f32], out: &mut impl Write) -> std::io::Result<()> {
        for values in values.chunks(16 << 10) {
            let bytes: Vec<u8> = match self {
                Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Self::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
                Self::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            };
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// How to save.
#[derive(Debug, Clone, Copy)]
pub struct SaveOptions<'a> {
    /// The type of all weights that are not quantised.
    pub dtype: SaveDtype,
    /// Bytes of tensors above which a new shard begins; a larger tensor has a shard of its own.
    pub max_shard_size: u64,
    /// `generation_config.json`; without it one is made from the config's token ids, if it has any.
    pub generation_config: Option<&'a Value>,
    /// `quantization_config` of `config.json`, where some weights are quantised.
    pub quantization_config: Option<&'a Value>,
}

impl Default for SaveOptions<'_> {
    /// BF16 in shards of 5 GB.
    fn default() -> Self {
        Self {
            dtype: SaveDtype::BF16,
            max_shard_size: 5_000_000_000,
            generation_config: None,
            quantization_config: None,
        }
    }
}

/// One tensor to save; its values are asked for when their turn has come.
pub struct TensorToSave<'a> {
    pub(super) name: String,
    shape: Vec<usize>,
    content: Content<'a>,
}

/// What is written of a tensor.
enum Content<'a> {
    /// Values that are rounded to the type of the file.
    Values(Box<dyn FnOnce() -> Result<Cow<'a, [f32]>> + 'a>),
    /// Bytes as they are, of this type.
    Bytes(Stored, Box<dyn FnOnce() -> Result<Vec<u8>> + 'a>),
}

impl<'a> TensorToSave<'a> {
    /// A tensor of values in memory, row-major in `shape`.
    pub fn new(name: impl Into<String>, shape: &[usize], values: impl Into<Cow<'a, [f32]>>) -> Self {
        let values = values.into();
        Self::deferred(name, shape, move || Ok(values))
    }

    /// A tensor whose values are produced by `values` when it is written.
    pub fn deferred(
        name: impl Into<String>,
        shape: &[usize],
        values: impl FnOnce() -> Result<Cow<'a, [f32]>> + 'a,
    ) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), content: Content::Values(Box::new(values)) }
    }

    /// A tensor that is written as it is.
    pub(super) fn bytes(
        name: String,
        dtype: Stored,
        shape: &[usize],
        bytes: impl FnOnce() -> Result<Vec<u8>> + 'a,
    ) -> Self {
        Self { name, shape: shape.to_vec(), content: Content::Bytes(dtype, Box::new(bytes)) }
    }

    /// Its type in a file of floating-point tensors of `dtype`.
    fn stored(&self, dtype: SaveDtype) -> Stored {
        match &self.content {
            Content::Values(_) => dtype.stored(),
            Content::Bytes(stored, _) => *stored,
        }
    }

    fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its size in such a file, in bytes.
    fn size(&self, dtype: SaveDtype) -> usize {
        self.values() * self.stored(dtype).bitsize() / 8
    }

    /// Writes it into such a file.
    fn write(self, dtype: SaveDtype, path: &Path, out: &mut impl Write) -> Result<()> {
        let (name, shape, expected) = (self.name.clone(), self.shape.clone(), self.size(dtype));
        let wrong = |expected, values| WeightsError::WrongSize { name, shape, expected, values };
        match self.content {
            Content::Values(values) => {
                let (values, expected) = (values()?, self.shape.iter().product());
                if values.len() != expected {
                    return Err(wrong(expected, values.len()));
                }
                dtype.write(&values, out).map_err(WeightsError::io("write", path))
            }
            Content::Bytes(_, bytes) => {
                let bytes = bytes()?;
                if bytes.len() != expected {
                    return Err(wrong(expected, bytes.len()));
                }
                out.write_all(&bytes).map_err(WeightsError::io("write", path))
            }
        }
    }
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors` (shards with an index above
/// [`SaveOptions::max_shard_size`]) into the folder `dir`, which may exist but must not hold any of them.
///
/// With `tie_word_embeddings` in `config`, `lm_head.weight` is not written. `torch_dtype` of the saved config is the
/// type of the saved weights.
///
/// All files are complete before the first appears in `dir`, and `config.json` appears last.
///
/// # Errors
/// If a file is in the way, a tensor's size contradicts its shape, or the disk refuses.
pub fn save_checkpoint<'a>(
    dir: &Path,
    config: &Value,
    tensors: impl IntoIterator<Item = TensorToSave<'a>>,
    options: &SaveOptions<'_>,
) -> Result<()> {
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true);
    let tensors: Vec<TensorToSave<'a>> =
        tensors.into_iter().filter(|tensor| !(tied && tensor.name == "lm_head.weight")).collect();
    let mut names = HashSet::new();
    if let Some(tensor) = tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        return Err(WeightsError::SavedTwice { name: tensor.name.clone() });
    }
    refuse_existing(dir)?;

    let staging = Staging::beside(dir)?;
    let mut files = write_shards(staging.path(), tensors, options)?;
    let generation = options.generation_config.cloned().or_else(|| generation_config(config));
    if let Some(generation) = generation {
        write_json(&staging.path().join("generation_config.json"), &generation)?;
        files.push("generation_config.json".into());
    }
    write_json(&staging.path().join("config.json"), &saved_config(config, options))?;
    files.push("config.json".into());
    publish(staging, dir, &files)
}

/// Writes an adapter's config and its tensors, in f32, into the folder `dir` under the names given with them. The folder
/// may exist but must not hold weights or a config.
///
/// # Errors
/// As [`save_checkpoint`].
pub fn save_adapter(
    dir: &Path,
    (config_name, config): (&str, &Value),
    (tensors_name, tensors): (&str, Vec<TensorToSave<'_>>),
) -> Result<()> {
    refuse_existing(dir)?;
    let staging = Staging::beside(dir)?;
    write_safetensors(&staging.path().join(tensors_name), tensors, SaveDtype::F32)?;
    write_json(&staging.path().join(config_name), config)?;
    publish(staging, dir, &[tensors_name.to_owned(), config_name.to_owned()])
}

/// Splits the tensors and writes the shards; returns the file names, an index last.
fn write_shards(dir: &Path, tensors: Vec<TensorToSave<'_>>, options: &SaveOptions<'_>) -> Result<Vec<String>> {
    let mut shards: Vec<Vec<TensorToSave<'_>>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for tensor in tensors {
        let bytes = tensor.size(options.dtype) as u64;
        if filled > 0 && filled + bytes > options.max_shard_size {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    let count = shards.len();
    let mut files = Vec::new();
    let mut weight_map = Map::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(file))));
        write_safetensors(&dir.join(&file), shard, options.dtype)?;
        files.push(file);
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(&dir.join("model.safetensors.index.json"), &index)?;
        files.push("model.safetensors.index.json".into());
    }
    Ok(files)
}

/// Streams tensors into one safetensors file, one in memory at a time.
fn write_safetensors(path: &Path, tensors: Vec<TensorToSave<'_>>, dtype: SaveDtype) -> Result<()> {
    let infos = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.stored(dtype), tensor.shape.clone()));
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = safetensors_header(infos, Some(format))
        .map_err(|e| WeightsError::malformed(path, format!("its header cannot be written: {e}")))?;
    let io = || WeightsError::io("write", path);
    let mut out = BufWriter::new(File::create_new(path).map_err(io())?);
    out.write_all(&header).map_err(io())?;
    for tensor in tensors {
        tensor.write(dtype, path, &mut out)?;
    }
    out.flush().map_err(io())
}

/// What a safetensors file begins with whose tensors, by name, dtype and shape, follow one another in this order.
///
/// # Errors
/// If two have one name.
pub fn safetensors_header(
    tensors: impl IntoIterator<Item = (String, Stored, Vec<usize>)>,
    metadata: Option<HashMap<String, String>>,
) -> std::result::Result<Vec<u8>, String> {
    let mut end = 0;
    let infos = tensors.into_iter().map(|(name, dtype, shape)| {
        let begin = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorInfo { dtype, shape, data_offsets: (begin, end) })
    });
    let metadata = Metadata::new(metadata, infos.collect()).map_err(|e| e.to_string())?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    // The values begin at a multiple of eight, as the reference implementation writes them.
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(grades_fs::create(path, format!("{value:#}\n"))?)
}

/// The config with the type of the saved weights, under the key that it already uses (`dtype` since transformers 5), and with
/// what it says of quantisation put right. nanoVLM's loader knows no such key.
fn saved_config(config: &Value, options: &SaveOptions<'_>) -> Value {
    let mut config = config.clone();
    if let Value::Object(config) = &mut config
        && !config.contains_key("lm_hidden_dim")
    {
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), json!(options.dtype.torch_name()));
        config.remove("quantization_config");
        if let Some(quantization) = options.quantization_config {
            config.insert("quantization_config".to_owned(), quantization.clone());
        }
    }
    config
}

/// What generation needs to know, from the config.
fn generation_config(config: &Value) -> Option<Value> {
    let mut generation = Map::from_iter([("_from_model_config".to_owned(), json!(true))]);
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
            generation.insert(key.to_owned(), id.clone());
        }
    }
    (generation.len() > 1).then_some(Value::Object(generation))
}

/// Fails if `dir` already has weights, in any layout, or a config.
fn refuse_existing(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(WeightsError::io("read", dir))? {
        let entry = entry.map_err(WeightsError::io("read", dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = matches!(
            &*name,
            "config.json" | "generation_config.json" | "model.safetensors.index.json" | "adapter_config.json"
        ) || name.ends_with(".safetensors");
        if ours {
            return Err(WeightsError::Exists { path: entry.path() });
        }
    }
    Ok(())
}

/// Lets `files` appear in `dir`: a new folder whole, one that is there with the last of them last.
fn publish(staging: Staging, dir: &Path, files: &[String]) -> Result<()> {
    if !dir.exists() {
        return Ok(staging.publish()?);
    }
    refuse_existing(dir)?;
    Ok(staging.publish_into(files)?)
}
