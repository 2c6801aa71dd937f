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
mod safetensors;
mod save;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use grades_kernels::elementwise;
use grades_kernels::quant::{Nf4, NotFinite, PackedMatrix};
use rayon::prelude::*;
use serde_json::Value;

pub use bitsandbytes_out::{nf4_tensors, quantization_config};
pub use dtype::Dtype;
pub use error::{Result, WeightsError};
pub use save::{SaveDtype, SaveOptions, TensorToSave, safetensors_header, save_adapter, save_checkpoint};

use file::TensorFile;

/// Values decoded per read: 1 MiB of f32, a multiple of every quantisation's block.
const VALUES_PER_READ: usize = 1 << 18;

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

    /// The values of a tensor, row-major in [`TensorInfo::shape`], decoded to f32 in pieces as all threads read them.
    pub fn load_f32(&self, name: &str) -> Result<Vec<f32>> {
        if let Some((info, of)) = self.joined.get(name) {
            return self.together(info, of);
        }
        let stored = self.stored(name)?;
        let mut values = zeroed::<f32>(name, stored.info.values())?;
        if let Some(scales) = &stored.scales {
            self.nf4(name, stored, scales)?.decode(&mut values);
            return Ok(values);
        }
        values.par_chunks_mut(VALUES_PER_READ).enumerate().try_for_each_init(Vec::new, |bytes, (index, piece)| {
            self.read_piece(name, stored, index * VALUES_PER_READ, piece, bytes)
        })?;
        Ok(match stored.interleaved_heads {
            Some(heads) => gguf::deinterleave(&values, stored.info.shape[0], heads),
            None => values,
        })
    }

    /// The values of a tensor that several stored ones are together.
    fn together(&self, info: &TensorInfo, of: &Joined) -> Result<Vec<f32>> {
        let parts: Vec<Vec<f32>> = of.parts().iter().map(|part| self.load_f32(part)).collect::<Result<_>>()?;
        Ok(match of {
            Joined::Rows(_) => parts.concat(),
            Joined::Frames(_) => {
                let pixels = info.shape.iter().skip(3).product::<usize>().max(1);
                let channels = info.values() / (parts.len() * pixels).max(1);
                let frame = |channel: usize| parts.iter().flat_map(move |part| &part[channel * pixels..][..pixels]);
                (0..channels).flat_map(frame).copied().collect()
            }
        })
    }

    /// Some rows of a tensor, whose row is its last dimension: of one whose rows lie in the file as they are, nothing else is read.
    pub fn load_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        if let Some((info, of)) = self.joined.get(name) {
            let columns = info.shape.last().copied().unwrap_or(1);
            let all = self.together(info, of)?;
            return all
                .get(rows.start * columns..rows.end * columns)
                .map(<[f32]>::to_vec)
                .ok_or_else(|| WeightsError::malformed(&self.path, format!("tensor {name}: it has no rows {rows:?}")));
        }
        let stored = self.stored(name)?;
        let columns = stored.info.shape.last().copied().unwrap_or(1);
        let wanted = rows.start * columns..rows.end * columns;
        if wanted.end > stored.info.values() {
            let path = &self.files[stored.file].path;
            return Err(WeightsError::malformed(path, format!("tensor {name}: it has no rows {rows:?}")));
        }
        let whole_blocks = stored.info.dtype.block().is_some_and(|(values, _)| columns.is_multiple_of(values));
        if stored.scales.is_some() || stored.interleaved_heads.is_some() || !whole_blocks {
            return Ok(self.load_f32(name)?[wanted].to_vec());
        }
        let mut values = zeroed::<f32>(name, wanted.len())?;
        values.par_chunks_mut(VALUES_PER_READ).enumerate().try_for_each_init(Vec::new, |bytes, (index, piece)| {
            self.read_piece(name, stored, wanted.start + index * VALUES_PER_READ, piece, bytes)
        })?;
        Ok(values)
    }

    /// A matrix in the blocks that it is stored in, rows in the order of [`TensorInfo::shape`]; one that is stored dense is
    /// encoded as NF4 in pieces as it is read.
    pub fn packed(&self, name: &str) -> Result<PackedMatrix> {
        let stored = self.stored(name)?;
        let malformed = |problem: String| {
            WeightsError::malformed(&self.files[stored.file].path, format!("tensor {name}: {problem}"))
        };
        let &[rows, columns] = stored.info.shape.as_slice() else {
            return Err(malformed(format!("its shape {:?} is not that of a matrix", stored.info.shape)));
        };
        let matrix = match (&stored.scales, stored.info.dtype) {
            (Some(scales), _) => PackedMatrix::nf4(self.nf4(name, stored, scales)?, rows, columns),
            (None, Dtype::Gguf(kind)) if kind.block_size() > 1 => {
                PackedMatrix::gguf(kind, self.raw(name)?, rows, columns)
            }
            _ => PackedMatrix::nf4(self.encode(name, stored)?, rows, columns),
        };
        matrix.map_err(|e| malformed(e.to_string()))
    }

    /// Some rows of a tensor, whose row is its last dimension, in the blocks that they are stored in; `None` where they are not
    /// stored so.
    pub fn packed_rows(&self, name: &str, rows: Range<usize>) -> Result<Option<PackedMatrix>> {
        let stored = self.stored(name)?;
        let columns = stored.info.shape.last().copied().unwrap_or(1);
        let Dtype::Gguf(kind) = stored.info.dtype else { return Ok(None) };
        let (values, bytes) = (kind.block_size(), kind.block_bytes());
        let in_order = stored.interleaved_heads.is_none() && stored.shift == 0.0;
        if values == 1 || !columns.is_multiple_of(values) || !in_order || rows.end * columns > stored.info.values() {
            return Ok(None);
        }
        let row = columns / values * bytes;
        let mut blocks = zeroed::<u8>(name, rows.len() * row)?;
        self.files[stored.file].read_at(stored.offset + (rows.start * row) as u64, &mut blocks)?;
        let matrix = PackedMatrix::gguf(kind, blocks, rows.len(), columns);
        matrix
            .map(Some)
            .map_err(|e| WeightsError::malformed(&self.files[stored.file].path, format!("tensor {name}: {e}")))
    }

    /// A tensor that is stored dense, in NF4.
    fn encode(&self, name: &str, stored: &Stored) -> Result<Nf4> {
        let (path, count) = (&self.files[stored.file].path, stored.info.values());
        let refused = |e: NotFinite| WeightsError::malformed(path, format!("tensor {name}: {e}"));
        if stored.interleaved_heads.is_some() {
            return Nf4::encode(&self.load_f32(name)?).map_err(refused);
        }
        let mut encoder = Nf4::encoder(count);
        let (mut values, mut bytes) = (vec![0.0; VALUES_PER_READ.min(count)], Vec::new());
        for first in (0..count).step_by(VALUES_PER_READ) {
            let piece = &mut values[..VALUES_PER_READ.min(count - first)];
            self.read_piece(name, stored, first, piece, &mut bytes)?;
            encoder.push(piece).map_err(refused)?;
        }
        Ok(encoder.finish())
    }

    /// Decodes values `first ..` of a tensor, in the order of the file; `first` begins a block. `bytes` is scratch.
    fn read_piece(
        &self,
        name: &str,
        stored: &Stored,
        first: usize,
        piece: &mut [f32],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let file = &self.files[stored.file];
        let dtype = stored.info.dtype;
        let not_float = || WeightsError::NotFloat { path: file.path.clone(), name: name.to_owned(), dtype };
        let (block_values, block_bytes) = dtype.block().ok_or_else(not_float)?;
        if dtype == Dtype::F32 && cfg!(target_endian = "little") && stored.shift == 0.0 {
            return file.read_at(stored.offset + (first * block_bytes) as u64, bytemuck::cast_slice_mut(piece));
        }
        bytes.resize(piece.len() / block_values * block_bytes, 0);
        file.read_at(stored.offset + (first / block_values * block_bytes) as u64, bytes)?;
        if !dtype.decode(bytes, piece) {
            return Err(not_float());
        }
        if stored.shift != 0.0 {
            piece.iter_mut().for_each(|value| *value -= stored.shift);
        }
        Ok(())
    }

    /// The bytes of a tensor as stored, rows in the order of [`TensorInfo::shape`]; of a weight in NF4 the codes alone.
    pub fn raw(&self, name: &str) -> Result<Vec<u8>> {
        let stored = self.stored(name)?;
        let count = stored.scales.as_ref().map_or(stored.info.bytes, bitsandbytes::Scales::codes);
        let bytes = self.bytes(name, stored, count)?;
        Ok(match stored.interleaved_heads {
            Some(heads) => gguf::deinterleave(&bytes, stored.info.shape[0], heads),
            None => bytes,
        })
    }

    /// The first `count` bytes of a tensor in its file.
    fn bytes(&self, name: &str, stored: &Stored, count: u64) -> Result<Vec<u8>> {
        let mut bytes = zeroed::<u8>(name, count as usize)?;
        self.files[stored.file].read_at(stored.offset, &mut bytes)?;
        Ok(bytes)
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors
            .get(name)
            .ok_or_else(|| WeightsError::MissingTensor { path: self.path.clone(), name: name.to_owned() })
    }
}

/// Where the tensors are.
enum Layout {
    Gguf(PathBuf),
    Safetensors(PathBuf),
    Sharded(PathBuf),
}

/// The GGUF file that `path` is or, as a folder without safetensors, holds.
pub(crate) fn locate_gguf(path: &Path) -> Result<Option<PathBuf>> {
    Ok(match locate(path)? {
        Layout::Gguf(file) => Some(file),
        Layout::Safetensors(_) | Layout::Sharded(_) => None,
    })
}

/// Whether a file is called as one of what reads pictures.
fn is_mmproj(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains("mmproj"))
}

/// The file of what reads pictures in a folder with that of a language model; `None` where there is none or several.
fn mmproj_beside(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let entries = fs::read_dir(folder).map_err(WeightsError::io("read", folder))?;
    let files = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|e| e == "gguf") && is_mmproj(file)).collect();
    Ok(found.pop().filter(|_| found.is_empty()))
}

fn locate(path: &Path) -> Result<Layout> {
    let not_a_checkpoint = |problem: String| WeightsError::NotACheckpoint { path: path.to_owned(), problem };
    let metadata = fs::metadata(path).map_err(WeightsError::io("open", path))?;
    if !metadata.is_dir() {
        return match path.extension().and_then(|e| e.to_str()) {
            Some("gguf") => Ok(Layout::Gguf(path.to_owned())),
            Some("safetensors") => Ok(Layout::Safetensors(path.to_owned())),
            _ => Err(not_a_checkpoint("it is neither a folder nor a .safetensors or .gguf file".into())),
        };
    }
    let single = path.join("model.safetensors");
    if single.is_file() {
        return Ok(Layout::Safetensors(single));
    }
    let index = path.join("model.safetensors.index.json");
    if index.is_file() {
        return Ok(Layout::Sharded(index));
    }
    let mut gguf = Vec::new();
    for entry in fs::read_dir(path).map_err(WeightsError::io("read", path))? {
        let entry = entry.map_err(WeightsError::io("read", path))?.path();
        if entry.extension().is_some_and(|e| e == "gguf") {
            gguf.push(entry);
        }
    }
    gguf.sort_unstable();
    gguf.retain(|file| !is_mmproj(file));
    // The parts of one model are one file.
    gguf.retain(|file| gguf::part_of(file).is_none_or(|part| part.number == 1));
    match (gguf.pop(), gguf.len()) {
        (Some(file), 0) => Ok(Layout::Gguf(file)),
        (Some(_), more) => Err(not_a_checkpoint(format!("it holds {} .gguf files; name the one to open", more + 1))),
        (None, _) if path.join("adapter_config.json").is_file() => Err(not_a_checkpoint(
            "it holds an adapter; give the model that it was trained on, with this folder as its adapter, or merge the two \
             first"
                .into(),
        )),
        (None, _) => Err(not_a_checkpoint(
            "it holds no model.safetensors, no model.safetensors.index.json and no .gguf file; \
             convert weights of other formats to safetensors first"
                .into(),
        )),
    }
}

/// Memory for one tensor; the count comes from a header that was checked against the size of the file.
fn zeroed<T: bytemuck::Pod + Send + Sync>(name: &str, count: usize) -> Result<Vec<T>> {
    elementwise::repeat(T::zeroed(), count).map_err(|_| WeightsError::OutOfMemory {
        name: name.to_owned(),
        bytes: (count as u64).saturating_mul(size_of::<T>() as u64),
    })
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
