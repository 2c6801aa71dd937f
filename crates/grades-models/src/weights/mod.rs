//! Checkpoints on disk: named tensors out of safetensors and GGUF files, and saving in the Hugging Face layout.
//!
//! Nothing here knows the tensor framework: values are host `Vec<f32>`, one tensor at a time.

mod bitsandbytes;
mod bitsandbytes_out;
mod dtype;
mod error;
mod file;
mod form;
pub mod gguf;
mod load;
mod locate;
mod safetensors;
mod save;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use bitsandbytes_out::{nf4_tensors, quantization_config};
pub use dtype::Dtype;
pub use error::{Result, WeightsError};
pub use save::{SaveDtype, SaveOptions, TensorToSave, safetensors_header, save_adapter, save_checkpoint};

pub(crate) use locate::locate_gguf;

use file::TensorFile;
use locate::{Layout, locate, mmproj_beside};

/// Shape and storage of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes in Hugging Face order, `[out_features, in_features]` for a projection.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub dtype: Dtype,
    /// Size in the file.
    pub bytes: u64,
}

impl TensorInfo {
    /// The number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A tensor and its place in one of the files.
#[derive(Debug)]
struct Stored {
    info: TensorInfo,
    file: usize,
    offset: u64,
    /// Rows of each head are stored interleaved (GGUF, llama architecture): the number of heads.
    interleaved_heads: Option<usize>,
    /// What was added to the values (GGUF, norms of some architectures).
    shift: f32,
    /// The scales of a weight in NF4.
    scales: Option<bitsandbytes::Scales>,
}

/// An open checkpoint: a config and named tensors, read when asked for.
///
/// Names are those of Hugging Face (`model.layers.0.self_attn.q_proj.weight`), also for GGUF files.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Option<Value>,
    generation_config: Option<Value>,
    files: Vec<TensorFile>,
    tensors: BTreeMap<String, Stored>,
    /// Tensors that several stored ones are together.
    joined: BTreeMap<String, (TensorInfo, Joined)>,
    /// What a file beside the model says of its processor.
    processor: Option<Value>,
}

/// How stored tensors make one.
#[derive(Debug)]
enum Joined {
    /// Their rows one behind another.
    Rows(Vec<String>),
    /// `[out, channels, …]` each, as frames of `[out, channels, frames, …]`.
    Frames(Vec<String>),
}

impl Joined {
    /// The names of its parts.
    fn parts(&self) -> &[String] {
        match self {
            Self::Rows(parts) | Self::Frames(parts) => parts,
        }
    }
}

impl Checkpoint {
    /// Opens a GGUF file of a language model with that of what reads pictures before it (`mmproj`), as llama.cpp has the two.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if the two do not belong together.
    pub fn open_with_mmproj(path: impl AsRef<Path>, mmproj: impl AsRef<Path>) -> Result<Self> {
        let (path, mmproj) = (path.as_ref(), mmproj.as_ref());
        match locate_gguf(path)? {
            Some(file) => Self::open_gguf(path, &file, Some(mmproj)),
            None => Err(WeightsError::unsupported(path, "only a model in a GGUF file has an mmproj file beside it")),
        }
    }

    /// What a file beside the model says of its processor, in the keys of `preprocessor_config.json`.
    pub fn processor(&self) -> Option<&Value> {
        self.processor.as_ref()
    }

    /// Opens a folder (`config.json` with `model.safetensors`, or shards with `model.safetensors.index.json`, or
    /// exactly one `.gguf` file), a single `.safetensors` file, or a `.gguf` file.
    ///
    /// Reads headers only. A multi-file checkpoint is checked for absent shards, absent tensors and duplicates.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match locate(path)? {
            Layout::Gguf(file) => Self::open_gguf(path, &file, mmproj_beside(path)?.as_deref()),
            Layout::Safetensors(file) => {
                let folder = file.parent().unwrap_or(Path::new("."));
                let mut checkpoint = Self::empty(path, folder)?;
                checkpoint.add_safetensors(&file)?;
                checkpoint.join_quantized()?;
                Ok(checkpoint)
            }
            Layout::Sharded(index) => {
                let mut checkpoint = Self::open_sharded(path, &index)?;
                checkpoint.join_quantized()?;
                Ok(checkpoint)
            }
        }
    }

    fn empty(path: &Path, folder: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            config: read_json_if_present(&folder.join("config.json"))?,
            generation_config: read_json_if_present(&folder.join("generation_config.json"))?,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            joined: BTreeMap::new(),
            processor: None,
        })
    }

    fn open_gguf(path: &Path, file: &Path, mmproj: Option<&Path>) -> Result<Self> {
        let contents = gguf::read(file)?;
        let mut checkpoint = Self {
            path: path.to_owned(),
            config: Some(contents.config),
            generation_config: None,
            files: contents.files,
            tensors: BTreeMap::new(),
            joined: BTreeMap::new(),
            processor: None,
        };
        checkpoint.add_gguf(contents.tensors)?;
        let sees = checkpoint.config.as_ref().is_some_and(|config| config["model_type"] == gguf::SEEING);
        match (mmproj, sees) {
            (None, false) => {}
            (Some(mmproj), true) => checkpoint.add_mmproj(mmproj)?,
            (None, true) => {
                let problem = "it holds the language model alone of a model that reads pictures; give what reads them too, as model: \
                               {path: FILE, mmproj: FILE}, or put both into one folder";
                return Err(WeightsError::unsupported(file, problem));
            }
            (Some(_), false) => {
                let problem = "its language model is none that reads pictures here, so no mmproj file goes with it";
                return Err(WeightsError::unsupported(file, problem));
            }
        }
        Ok(checkpoint)
    }

    fn add_gguf(&mut self, tensors: Vec<gguf::Tensor>) -> Result<()> {
        for gguf::Tensor { name, info, file, offset, interleaved_heads, shift } in tensors {
            self.insert(name, Stored { info, file, offset, interleaved_heads, shift, scales: None })?;
        }
        Ok(())
    }

    fn add_mmproj(&mut self, path: &Path) -> Result<()> {
        let gguf::mmproj::Contents { config, processor, tensors, joined, file } =
            gguf::mmproj::read(path, self.files.len())?;
        self.files.push(file);
        self.add_gguf(tensors)?;
        self.joined.extend(joined.into_iter().map(|(name, info, of)| (name, (info, of))));
        if let Some(whole) = &mut self.config {
            whole["vision_config"] = config;
        }
        self.processor = Some(processor);
        Ok(())
    }

    fn open_sharded(path: &Path, index_path: &Path) -> Result<Self> {
        let folder = index_path.parent().unwrap_or(Path::new("."));
        let mut checkpoint = Self::empty(path, folder)?;
        let index = read_json(index_path)?;
        let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| {
            WeightsError::malformed(index_path, "it has no object weight_map of tensor names to shard files")
        })?;
        let mut shards: Vec<&str> = Vec::new();
        for (name, shard) in map {
            let shard = shard.as_str().filter(|s| is_plain_file_name(s)).ok_or_else(|| {
                WeightsError::malformed(
                    index_path,
                    format!("weight_map does not name a file of this folder for {name}"),
                )
            })?;
            if !shards.contains(&shard) {
                shards.push(shard);
            }
        }
        shards.sort_unstable();
        for shard in shards {
            let file = folder.join(shard);
            if !file.is_file() {
                return Err(WeightsError::NotACheckpoint {
                    path: path.to_owned(),
                    problem: format!("its index names the shard {shard}, which is absent; download it"),
                });
            }
            checkpoint.add_safetensors(&file)?;
        }
        match map.keys().find(|name| !checkpoint.tensors.contains_key(*name)) {
            Some(name) => Err(WeightsError::malformed(
                index_path,
                format!("it lists tensor {name}, which none of the shards has"),
            )),
            None => Ok(checkpoint),
        }
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<()> {
        let file = TensorFile::open(path)?;
        let entries = safetensors::read_header(&file)?;
        let index = self.files.len();
        self.files.push(file);
        for entry in entries {
            let stored = Stored {
                info: entry.info,
                file: index,
                offset: entry.offset,
                interleaved_heads: None,
                shift: 0.0,
                scales: None,
            };
            self.insert(entry.name, stored)?;
        }
        Ok(())
    }

    fn insert(&mut self, name: String, stored: Stored) -> Result<()> {
        let path = &self.files[stored.file].path;
        match self.tensors.entry(name) {
            Entry::Vacant(place) => {
                place.insert(stored);
                Ok(())
            }
            Entry::Occupied(place) => {
                Err(WeightsError::malformed(path, format!("tensor {} occurs twice in the checkpoint", place.key())))
            }
        }
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's `config.json`; for a GGUF file, what its metadata says in the same keys.
    ///
    /// # Errors
    /// If the safetensors file has no `config.json` beside it.
    pub fn config(&self) -> Result<&Value> {
        self.config.as_ref().ok_or_else(|| WeightsError::NotACheckpoint {
            path: self.path.clone(),
            problem: "there is no config.json beside the weights, so the architecture is unknown".into(),
        })
    }

    /// `generation_config.json`, where there is one.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let is_part = |name: &&str| self.joined.values().any(|(_, of)| of.parts().iter().any(|part| part == name));
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        if !self.joined.is_empty() {
            names.retain(|name| !is_part(name));
            names.extend(self.joined.keys().map(String::as_str));
            names.sort_unstable();
        }
        names.into_iter()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.joined.contains_key(name)
    }

    /// Shape and storage of a tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        match self.joined.get(name) {
            Some((info, _)) => Ok(info),
            None => Ok(&self.stored(name)?.info),
        }
    }

    /// The types of the quantised tensors, each once.
    pub fn quantized_types(&self) -> Vec<Dtype> {
        let mut types: Vec<Dtype> = Vec::new();
        for stored in self.tensors.values().filter(|stored| stored.info.dtype.is_quantized()) {
            if !types.contains(&stored.info.dtype) {
                types.push(stored.info.dtype);
            }
        }
        types
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors
            .get(name)
            .ok_or_else(|| WeightsError::MissingTensor { path: self.path.clone(), name: name.to_owned() })
    }
}

fn is_plain_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name) && !name.contains(['/', '\\'])
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).map_err(WeightsError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|e| WeightsError::malformed(path, format!("it does not parse as JSON: {e}")))
}

fn read_json_if_present(path: &Path) -> Result<Option<Value>> {
    if path.is_file() { read_json(path).map(Some) } else { Ok(None) }
}
