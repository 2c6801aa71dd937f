//! GGUF files: llama.cpp's container for weights, config and tokenizer.

pub(crate) mod architecture;
mod config;
pub(crate) mod mmproj;
pub(crate) mod names;
mod parse;
mod parts;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use grades_kernels::quant::GgufType;
use serde_json::Value;

use super::error::{Result, WeightsError};
use super::file::TensorFile;
use super::{Dtype, TensorInfo};
use crate::fields::Taken;
use architecture::Architecture;
pub use parse::MetadataValue;
use parse::RawTensor;
pub use parts::{Part, part_of};

/// The metadata of a GGUF file, with typed access that names file and key where something is missing.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    values: HashMap<String, MetadataValue>,
    taken: Taken,
}

impl Metadata {
    /// Reads the metadata of the file at `path`; no tensor data is touched.
    pub fn open(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        Ok(Self { path: file.path.clone(), values: parse::read_header(&file)?.metadata, taken: Taken::default() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a full key, such as `tokenizer.ggml.model`.
    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        self.taken.note(key);
        self.values.get(key)
    }

    /// The keys with this beginning that nobody has asked for, in order.
    fn left(&self, beginning: &str) -> Vec<&str> {
        let keys = self.values.keys().map(String::as_str).filter(|key| key.starts_with(beginning));
        let mut left = self.taken.left(keys);
        left.sort_unstable();
        left
    }

    /// A text.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            MetadataValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            MetadataValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A non-negative integer below 2³².
    pub fn integer(&self, key: &str) -> Option<u32> {
        match self.get(key)? {
            MetadataValue::Integer(value) => u32::try_from(*value).ok(),
            _ => None,
        }
    }

    /// An array of text.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            MetadataValue::Strings(values) => Some(values),
            _ => None,
        }
    }

    /// An array of integers.
    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.get(key)? {
            MetadataValue::Integers(values) => Some(values),
            _ => None,
        }
    }

    /// An array of floats.
    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.get(key)? {
            MetadataValue::Floats(values) => Some(values),
            _ => None,
        }
    }

    /// The error for a key that must be there.
    pub(crate) fn missing(&self, key: &str) -> WeightsError {
        WeightsError::malformed(&self.path, format!("its metadata has no usable {key}"))
    }

    /// Key under the file's own architecture.
    fn architecture_key(&self, key: &str) -> String {
        format!("{}.{key}", self.string("general.architecture").unwrap_or_default())
    }

    fn architecture_string(&self, key: &str) -> Option<&str> {
        self.string(&self.architecture_key(key))
    }

    /// A number, or none where it is 0.
    fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(&self.architecture_key(key)) {
            Some(MetadataValue::Integer(0)) => Ok(None),
            _ => self.optional_size(key),
        }
    }

    /// A positive size; an array (one value per layer) counts if all its values agree.
    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let key = self.architecture_key(key);
        let value = match self.get(&key) {
            None => return Ok(None),
            Some(MetadataValue::Integer(value)) => *value,
            Some(MetadataValue::Integers(values)) if values.windows(2).all(|w| w[0] == w[1]) => {
                values.first().copied().unwrap_or(0).into()
            }
            Some(_) => return Err(self.missing(&key)),
        };
        match usize::try_from(value) {
            Ok(size) if (1..=u32::MAX as usize).contains(&size) => Ok(Some(size)),
            _ => Err(self.missing(&key)),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.missing(&self.architecture_key(key)))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f64>> {
        let key = self.architecture_key(key);
        match self.get(&key) {
            None => Ok(None),
            Some(MetadataValue::Float(value)) if value.is_finite() && *value > 0.0 => Ok(Some(*value)),
            Some(_) => Err(self.missing(&key)),
        }
    }

    fn float(&self, key: &str) -> Result<f64> {
        self.optional_float(key)?.ok_or_else(|| self.missing(&self.architecture_key(key)))
    }
}

/// The `model_type` of those whose language model has what reads pictures in a file of its own.
pub(super) const SEEING: &str = "qwen2_5_vl";

/// A weight under its Hugging Face name.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) info: TensorInfo,
    /// Which of the files, and where in it.
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) interleaved_heads: Option<usize>,
    /// What was added to the values.
    pub(super) shift: f32,
}

/// Config and weights of a GGUF model, with the files that hold them.
pub(super) struct Contents {
    pub(super) config: Value,
    pub(super) tensors: Vec<Tensor>,
    pub(super) files: Vec<TensorFile>,
}

/// Reads the headers of a file and of the parts that belong to it; every tensor lies within its file.
pub(super) fn read(path: &Path) -> Result<Contents> {
    let first = TensorFile::open(path)?;
    let header = parse::read_header(&first)?;
    let metadata = Metadata { path: first.path.clone(), values: header.metadata, taken: Taken::default() };
    let architecture = Architecture::of(&metadata)?;
    let (heads, kv_heads) = config::heads(&metadata)?;
    let mut tables = vec![(header.tensors, header.data)];
    let mut files = vec![first];
    for part in parts::others(&metadata)? {
        let part = TensorFile::open(&part)?;
        let header = parse::read_header(&part)?;
        tables.push((header.tensors, header.data));
        files.push(part);
    }
    parts::check(&metadata, tables.iter().map(|(tensors, _)| tensors.len()).sum())?;

    let mut seen = HashSet::new();
    let mut tensors = Vec::new();
    let mut rope = HashMap::new();
    for (number, (raw, data)) in
        tables.iter().enumerate().flat_map(|(file, (raws, data))| raws.iter().map(move |raw| (file, (raw, *data))))
    {
        let file = &files[number];
        if !seen.insert(raw.name.as_str()) {
            return Err(WeightsError::malformed(&file.path, format!("tensor {} occurs twice", raw.name)));
        }
        let (info, offset) = place(file, raw, data)?;
        match names::to_hugging_face(&raw.name, architecture) {
            names::Mapped::Weight(name) => {
                let interleaved_heads = match raw.name.split('.').nth(2) {
                    Some("attn_q") if architecture.interleaved => Some(heads),
                    Some("attn_k") if architecture.interleaved => Some(kv_heads),
                    _ => None,
                };
                if interleaved_heads.is_some_and(|heads| !info.shape[0].is_multiple_of(2 * heads)) {
                    return Err(WeightsError::malformed(
                        &file.path,
                        format!("tensor {} has {} rows, no multiple of two per head", raw.name, info.shape[0]),
                    ));
                }
                let shift = if name.ends_with("norm.weight") { architecture.norm_shift } else { 0.0 };
                tensors.push(Tensor { name, info, file: number, offset, interleaved_heads, shift });
            }
            names::Mapped::Skipped => {
                rope.insert(raw.name.as_str(), (number, info, offset));
            }
            names::Mapped::Unknown => {
                let problem =
                    format!("no {} model has a tensor {}; use the safetensors weights", architecture.name, raw.name);
                return Err(WeightsError::unsupported(&file.path, problem));
            }
        }
    }

    let factors = |name: &str| {
        rope.get(name).map(|(file, info, offset)| small_f32(&files[*file], name, info, *offset)).transpose()
    };
    let facts = config::Facts {
        vocab_size: tensors
            .iter()
            .find(|t| t.name == "model.embed_tokens.weight")
            .map(|t| t.info.shape[0])
            .ok_or_else(|| WeightsError::malformed(path, "it has no tensor token_embd.weight"))?,
        tied: !seen.contains("output.weight"),
        attention_bias: seen.contains("blk.0.attn_q.bias"),
        mlp_bias: seen.contains("blk.0.ffn_up.bias"),
        torch_dtype: torch_dtype(&tensors),
        rope_freqs: factors("rope_freqs.weight")?,
        rope_factors: factors("rope_factors_short.weight")?.zip(factors("rope_factors_long.weight")?),
    };
    let config = config::synthesize(&metadata, architecture, &facts)?;
    config::settle(&metadata)?;
    Ok(Contents { config, tensors, files })
}

/// The rows of `[rows, …]` values with the two halves of each head apart again.
///
/// Stored row `(head, i, half)` becomes row `(head, half, i)`, as `LlamaTensorProcessor` of transformers does.
pub(super) fn deinterleave<T: Copy>(values: &[T], rows: usize, heads: usize) -> Vec<T> {
    let row = values.len() / rows;
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(2 * half * row) {
        for offset in [0, row] {
            out.extend(head.chunks_exact(2 * row).flat_map(|pair| &pair[offset..offset + row]));
        }
    }
    out
}

/// The rows of `[rows, …]` values as a converter stores them: the halves of each head interleaved. Undoes [`deinterleave`].
pub(crate) fn interleave<T: Copy>(values: &[T], rows: usize, heads: usize) -> Vec<T> {
    let row = values.len() / rows;
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(2 * half * row) {
        let (first, second) = head.split_at(half * row);
        for (first, second) in first.chunks_exact(row).zip(second.chunks_exact(row)) {
            out.extend(first);
            out.extend(second);
        }
    }
    out
}

/// Checks a tensor against its type and the file, and turns its shape around.
fn place(file: &TensorFile, raw: &RawTensor, data: u64) -> Result<(TensorInfo, u64)> {
    let malformed = |problem: &str| WeightsError::malformed(&file.path, format!("tensor {} {problem}", raw.name));
    let dtype = dtype(raw.kind).ok_or_else(|| {
        WeightsError::unsupported(
            &file.path,
            format!("tensor {} has the GGUF type {}; use a file in F16, Q8_0 or Q4_K_M", raw.name, raw.kind),
        )
    })?;
    let (block_values, block_bytes) = dtype.block().ok_or_else(|| malformed("has no block size"))?;
    let values = raw
        .dimensions
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
        .filter(|&values| values > 0)
        .ok_or_else(|| malformed("has an impossible shape"))?;
    if !raw.dimensions[0].is_multiple_of(block_values as u64) {
        return Err(malformed("has rows that are no whole number of blocks of its type"));
    }
    let end = (values / block_values as u64)
        .checked_mul(block_bytes as u64)
        .and_then(|bytes| Some((bytes, data.checked_add(raw.offset)?)))
        .and_then(|(bytes, begin)| Some((bytes, begin, begin.checked_add(bytes)?)));
    let (bytes, offset) = match end {
        Some((bytes, begin, end)) if end <= file.len => (bytes, begin),
        _ => return Err(malformed("reaches beyond the end of the file; download it again")),
    };
    let shape = raw.dimensions.iter().rev().map(|&size| size as usize).collect();
    Ok((TensorInfo { shape, dtype, bytes }, offset))
}

/// The storage type of a ggml type number (`enum ggml_type` in ggml.h).
fn dtype(kind: u32) -> Option<Dtype> {
    const GGML_F64: u32 = 28;
    if kind == GGML_F64 { Some(Dtype::F64) } else { GgufType::from_id(kind).map(Dtype::Gguf) }
}

/// The precision of the original weights, as far as the file tells.
fn torch_dtype(tensors: &[Tensor]) -> &'static str {
    let stored = |dtype| tensors.iter().any(|t| t.info.shape.len() > 1 && t.info.dtype == dtype);
    match () {
        () if tensors.iter().any(|t| t.info.dtype.is_quantized()) => "float32",
        () if stored(Dtype::BF16) => "bfloat16",
        () if stored(Dtype::F16) => "float16",
        () => "float32",
    }
}

/// Reads a vector of rotary factors.
fn small_f32(file: &TensorFile, name: &str, info: &TensorInfo, offset: u64) -> Result<Vec<f32>> {
    const MOST: usize = 4096;
    if info.dtype != Dtype::F32 || info.values() > MOST {
        return Err(WeightsError::malformed(&file.path, format!("{name} is not a short vector of F32")));
    }
    let mut bytes = vec![0; info.bytes as usize];
    file.read_at(offset, &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}
