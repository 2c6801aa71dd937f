//! Writing the GGUF container, version 3: metadata, tensor table, tensors.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use grades_kernels::quant::GgufType;

use crate::Error;
use crate::weights::WeightsError;

/// Where each tensor begins is a multiple of this.
const ALIGNMENT: usize = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl Value {
    /// Its number as a type, and its bytes.
    fn bytes(&self) -> (u32, Vec<u8>) {
        let list = |kind: u32, count: usize, items: Vec<u8>| {
            (9, [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &items].concat())
        };
        match self {
            Self::U32(value) => (4, value.to_le_bytes().to_vec()),
            Self::F32(value) => (6, value.to_le_bytes().to_vec()),
            Self::Bool(value) => (7, vec![u8::from(*value)]),
            Self::Text(value) => (8, text(value)),
            Self::Texts(values) => list(8, values.len(), values.iter().flat_map(|value| text(value)).collect()),
            Self::I32s(values) => list(5, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::F32s(values) => list(6, values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        }
    }
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

/// A row of the tensor table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// As Hugging Face has it, the fastest-moving dimension last.
    pub(super) shape: Vec<usize>,
    pub(super) kind: GgufType,
}

/// Writes a new file; `bytes` gives those of a tensor by its place in `entries`, one after the other.
pub(super) fn write(
    path: &Path,
    metadata: &[(String, Value)],
    entries: &[Entry],
    mut bytes: impl FnMut(usize) -> Result<Vec<u8>, Error>,
) -> Result<(), Error> {
    let mut header = b"GGUF".to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        let (kind, bytes) = value.bytes();
        header.extend(text(key));
        header.extend(kind.to_le_bytes());
        header.extend(bytes);
    }
    let (mut offset, mut sizes) = (0, Vec::new());
    for entry in entries {
        let values = entry.shape.iter().product();
        let size = entry.kind.bytes_of(values).map_err(|e| Error::Input(format!("tensor {}: {e}", entry.name)))?;
        header.extend(text(&entry.name));
        header.extend((entry.shape.len() as u32).to_le_bytes());
        header.extend(entry.shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
        header.extend(entry.kind.id().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        sizes.push(size);
        offset += size.next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);

    let io = || WeightsError::io("write", path);
    let mut out = BufWriter::new(File::create_new(path).map_err(io())?);
    out.write_all(&header).map_err(io())?;
    for (index, size) in sizes.into_iter().enumerate() {
        let tensor = bytes(index)?;
        debug_assert_eq!(tensor.len(), size);
        out.write_all(&tensor).map_err(io())?;
        out.write_all(&[0; ALIGNMENT][..size.next_multiple_of(ALIGNMENT) - size]).map_err(io())?;
    }
    Ok(out.flush().map_err(io())?)
}
