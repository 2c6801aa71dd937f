//! The GGUF container: metadata and tensor table.
//!
//! Our own reader and not `gguf-rs-lib` 0.3.3, which is bounded and sound but refuses version 2 files and every file
//! with a hyphen in a metadata key (`gpt-oss.*`, `command-r.*`), and keeps each of the 100,000s of vocabulary entries
//! as an enum of its own. Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! Every length is checked against what is left of the file before anything is allocated.

use std::collections::HashMap;

use crate::weights::error::{Result, WeightsError};
use crate::weights::file::TensorFile;

/// Bytes fetched at a time while walking the header.
const READ_AHEAD: u64 = 1 << 20;
/// Longest string accepted; chat templates, the longest known, have some 10 KiB.
const MAX_STRING: u64 = 16 << 20;
/// Most elements of an array accepted; the largest vocabularies have some 300,000.
const MAX_ARRAY: u64 = 1 << 24;
/// Largest alignment accepted; files use 32.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A value of the metadata; numbers are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Any integer type.
    Integer(i128),
    /// f32 or f64; an f32 becomes the f64 with the same shortest decimal form, so that 1e-5 stays 1e-5.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    String(String),
    /// An array of any integer type, or of truth values as 0 and 1.
    Integers(Vec<i64>),
    /// An array of f32 or f64.
    Floats(Vec<f32>),
    /// An array of text.
    Strings(Vec<String>),
}

/// A row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawTensor {
    pub(super) name: String,
    /// As stored: the fastest-moving dimension first.
    pub(super) dimensions: Vec<u64>,
    pub(super) kind: u32,
    /// From the start of the data section.
    pub(super) offset: u64,
}

/// Everything before the tensor data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: HashMap<String, MetadataValue>,
    pub(super) tensors: Vec<RawTensor>,
    /// Where the data section begins in the file.
    pub(super) data: u64,
}

/// Reads the header of a GGUF file of version 2 or 3.
pub(super) fn read_header(file: &TensorFile) -> Result<Header> {
    let mut cursor = Cursor { file, position: 0, buffer: Vec::new(), buffer_start: 0 };
    if cursor.bytes::<4>()? != *b"GGUF" {
        return Err(cursor.malformed("it does not begin with the letters GGUF"));
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 2 | 3) => {
            return Err(WeightsError::unsupported(&file.path, "it is a big-endian GGUF; use the little-endian file"));
        }
        version => {
            return Err(WeightsError::unsupported(
                &file.path,
                format!("it is GGUF version {version}; versions 2 and 3 can be read, so convert it again"),
            ));
        }
    }
    let tensor_count = cursor.u64()?;
    let metadata_count = cursor.u64()?;

    let mut metadata = HashMap::new();
    // A key, its type and the smallest value: 8 + 4 + 1 bytes.
    cursor.check_count("metadata entries", metadata_count, 13)?;
    for _ in 0..metadata_count {
        let key = cursor.string()?;
        let kind = cursor.u32()?;
        let value = cursor.value(&key, kind)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(cursor.malformed(format!("the metadata key {key} occurs twice")));
        }
    }

    let mut tensors = Vec::new();
    // A name, the number of dimensions, type and offset: 8 + 4 + 4 + 8 bytes.
    cursor.check_count("tensors", tensor_count, 24)?;
    for _ in 0..tensor_count {
        let name = cursor.string()?;
        let rank = cursor.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(cursor.malformed(format!("tensor {name} has {rank} dimensions")));
        }
        let dimensions = (0..rank).map(|_| cursor.u64()).collect::<Result<Vec<_>>>()?;
        tensors.push(RawTensor { name, dimensions, kind: cursor.u32()?, offset: cursor.u64()? });
    }

    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(MetadataValue::Integer(n)) if (1..=i128::from(MAX_ALIGNMENT)).contains(n) => *n as u64,
        Some(_) => return Err(cursor.malformed("general.alignment is not a sensible number of bytes")),
    };
    Ok(Header { metadata, tensors, data: cursor.position.next_multiple_of(alignment) })
}

/// Walks forward through the file.
struct Cursor<'a> {
    file: &'a TensorFile,
    position: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
}

impl Cursor<'_> {
    fn malformed(&self, problem: impl Into<String>) -> WeightsError {
        WeightsError::malformed(&self.file.path, problem)
    }

    fn remaining(&self) -> u64 {
        self.file.len.saturating_sub(self.position)
    }

    /// Fails early on a count that the rest of the file cannot hold.
    fn check_count(&self, what: &str, count: u64, smallest: u64) -> Result<()> {
        if count.checked_mul(smallest).is_none_or(|bytes| bytes > self.remaining()) {
            return Err(self.malformed(format!(
                "it announces {count} {what}, more than its {} bytes hold; download it again",
                self.file.len
            )));
        }
        Ok(())
    }

    fn take(&mut self, length: u64) -> Result<&[u8]> {
        if length > self.remaining() {
            return Err(self.malformed(format!(
                "it ends after {} bytes in the middle of its header; download it again",
                self.file.len
            )));
        }
        let buffered = self.buffer_start + self.buffer.len() as u64;
        if self.position + length > buffered {
            let fetch = length.max(READ_AHEAD).min(self.remaining());
            self.buffer.resize(fetch as usize, 0);
            self.file.read_at(self.position, &mut self.buffer)?;
            self.buffer_start = self.position;
        }
        let begin = (self.position - self.buffer_start) as usize;
        self.position += length;
        Ok(&self.buffer[begin..begin + length as usize])
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String> {
        let length = self.u64()?;
        if length > MAX_STRING {
            return Err(self.malformed(format!("it announces a text of {length} bytes in its header")));
        }
        let text = str::from_utf8(self.take(length)?).map(str::to_owned);
        text.map_err(|e| self.malformed(format!("a text of its header is not UTF-8: {e}")))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<MetadataValue> {
        Ok(match kind {
            7 => MetadataValue::Bool(self.bytes::<1>()?[0] != 0),
            8 => MetadataValue::String(self.string()?),
            9 => self.array(key)?,
            6 | 12 => MetadataValue::Float(self.float(kind)?),
            _ => MetadataValue::Integer(self.integer(key, kind)?),
        })
    }

    fn array(&mut self, key: &str) -> Result<MetadataValue> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            _ => 8,
        };
        self.check_count(&format!("elements of {key}"), count, smallest)?;
        if count > MAX_ARRAY {
            return Err(self.malformed(format!("it announces {count} elements of {key}")));
        }
        Ok(match kind {
            8 => MetadataValue::Strings((0..count).map(|_| self.string()).collect::<Result<_>>()?),
            6 | 12 => MetadataValue::Floats((0..count).map(|_| Ok(self.float(kind)? as f32)).collect::<Result<_>>()?),
            _ => {
                MetadataValue::Integers((0..count).map(|_| Ok(self.integer(key, kind)? as i64)).collect::<Result<_>>()?)
            }
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64> {
        if kind == 12 {
            return self.bytes().map(f64::from_le_bytes);
        }
        let value = f32::from_le_bytes(self.bytes()?);
        Ok(value.to_string().parse().unwrap_or(f64::from(value)))
    }

    fn integer(&mut self, key: &str, kind: u32) -> Result<i128> {
        Ok(match kind {
            0 | 7 => u8::from_le_bytes(self.bytes()?).into(),
            1 => i8::from_le_bytes(self.bytes()?).into(),
            2 => u16::from_le_bytes(self.bytes()?).into(),
            3 => i16::from_le_bytes(self.bytes()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.bytes()?).into(),
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.bytes()?).into(),
            _ => return Err(self.malformed(format!("the metadata key {key} has the unknown type {kind}"))),
        })
    }
}
