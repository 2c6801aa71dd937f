//! A writer of small GGUF files for tests.

use std::collections::BTreeMap;
use std::path::Path;

use super::{MetadataValue, parse, place};
use crate::weights::file::TensorFile;

/// Metadata and tensors of a file to be written.
#[derive(Clone, Default)]
pub(crate) struct GgufBuilder {
    metadata: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    version: Option<u32>,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

impl GgufBuilder {
    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.metadata.push([&text(key), &kind.to_le_bytes()[..], value].concat());
        self
    }

    fn array(self, key: &str, kind: u32, count: usize, values: &[u8]) -> Self {
        self.entry(key, 9, &[&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), values].concat())
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.entry(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Self {
        self.entry(key, 7, &[value.into()])
    }

    pub(crate) fn string(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, &text(value))
    }

    pub(crate) fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| text(value.as_ref())).collect();
        self.array(key, 8, values.len(), &bytes)
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 5, values.len(), &bytes)
    }

    pub(crate) fn f32s(self, key: &str, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 6, values.len(), &bytes)
    }

    /// A tensor of ggml type `kind`; `shape` in Hugging Face order.
    pub(crate) fn tensor(mut self, name: &str, shape: &[usize], kind: u32, bytes: &[u8]) -> Self {
        let dimensions = shape.iter().rev().map(|&size| size as u64).collect();
        self.tensors.push((name.to_owned(), dimensions, kind, bytes.to_vec()));
        self
    }

    /// An F32 tensor.
    pub(crate) fn f32_tensor(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, shape, 0, &bytes)
    }

    pub(crate) fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }

    /// The keys that every llama-like file has, for `hidden` = heads × `head_dim`.
    pub(crate) fn architecture(self, name: &str, hidden: u32, heads: u32, kv_heads: u32) -> Self {
        let key = |suffix: &str| format!("{name}.{suffix}");
        self.string("general.architecture", name)
            .u32(&key("context_length"), 128)
            .u32(&key("embedding_length"), hidden)
            .u32(&key("feed_forward_length"), 2 * hidden)
            .u32(&key("block_count"), 2)
            .u32(&key("attention.head_count"), heads)
            .u32(&key("attention.head_count_kv"), kv_heads)
            .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        out.extend(self.metadata.concat());
        let mut offset = 0;
        for (name, dimensions, kind, bytes) in &self.tensors {
            out.extend(text(name));
            out.extend((dimensions.len() as u32).to_le_bytes());
            out.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(32);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        for (.., bytes) in &self.tensors {
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// Dimensions as stored, type, and bytes of a tensor.
pub(crate) type RawValues = (Vec<u64>, u32, Vec<u8>);

/// All that is in a file.
pub(crate) fn raw(path: &Path) -> (BTreeMap<String, MetadataValue>, BTreeMap<String, RawValues>) {
    let file = TensorFile::open(path).unwrap();
    let header = parse::read_header(&file).unwrap();
    let tensor = |raw: &parse::RawTensor| {
        let (info, offset) = place(&file, raw, header.data).unwrap();
        let mut bytes = vec![0; info.bytes as usize];
        file.read_at(offset, &mut bytes).unwrap();
        (raw.name.clone(), (raw.dimensions.clone(), raw.kind, bytes))
    };
    let tensors = header.tensors.iter().map(tensor).collect();
    (header.metadata.into_iter().collect(), tensors)
}
