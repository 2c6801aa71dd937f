//! The Hugging Face weight format: an 8-byte header length, a JSON header, the raw values.

use safetensors::tensor::{Dtype as Stored, Metadata};

use super::error::{Result, WeightsError};
use super::file::TensorFile;
use super::{Dtype, TensorInfo};

/// The limit of the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor of a safetensors file: its name, what it is, and where its bytes begin.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) info: TensorInfo,
    pub(super) offset: u64,
}

/// Reads the header; every entry lies within the file and has the size that its shape asks for.
pub(super) fn read_header(file: &TensorFile) -> Result<Vec<Entry>> {
    let malformed = |problem: String| WeightsError::malformed(&file.path, problem);
    if file.len < 8 {
        return Err(malformed(format!("it has {} bytes, fewer than a safetensors header needs", file.len)));
    }
    let mut length = [0; 8];
    file.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > file.len - 8 {
        return Err(malformed(format!(
            "it announces a header of {length} bytes in a file of {} bytes; download it again",
            file.len
        )));
    }
    let mut header = vec![0; length as usize];
    file.read_at(8, &mut header)?;
    // Deserialising checks that the tensors lie one behind the other without gap or overlap, that shapes do not
    // overflow, and that each has the size its shape and type ask for.
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|e| malformed(format!("its safetensors header does not parse: {e}")))?;

    let data = 8 + length;
    let present = file.len - data;
    if present != header.data_len() as u64 {
        return Err(malformed(format!(
            "its header describes {} bytes of tensors but {present} follow; download it again",
            header.data_len()
        )));
    }
    let names = header.offset_keys();
    Ok(names
        .into_iter()
        .filter_map(|name| {
            let stored = header.info(&name)?;
            let (begin, end) = stored.data_offsets;
            let info =
                TensorInfo { shape: stored.shape.clone(), dtype: dtype(stored.dtype), bytes: (end - begin) as u64 };
            Some(Entry { name, info, offset: data + begin as u64 })
        })
        .collect())
}

fn dtype(stored: Stored) -> Dtype {
    match stored {
        Stored::F64 => Dtype::F64,
        Stored::F32 => Dtype::F32,
        Stored::F16 => Dtype::F16,
        Stored::BF16 => Dtype::BF16,
        Stored::BOOL => Dtype::Other("BOOL"),
        Stored::U8 => Dtype::Other("U8"),
        Stored::I8 => Dtype::Other("I8"),
        Stored::U16 => Dtype::Other("U16"),
        Stored::I16 => Dtype::Other("I16"),
        Stored::U32 => Dtype::Other("U32"),
        Stored::I32 => Dtype::Other("I32"),
        Stored::U64 => Dtype::Other("U64"),
        Stored::I64 => Dtype::Other("I64"),
        Stored::F8_E4M3 => Dtype::Other("F8_E4M3"),
        Stored::F8_E5M2 => Dtype::Other("F8_E5M2"),
        _ => Dtype::Other("a number format unknown here"),
    }
}
