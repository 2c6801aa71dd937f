//! Block-quantised weights: decoding GGUF types to f32, as ggml's `dequantize_row_*` functions define them, and NF4 as
//! bitsandbytes defines it; matrices that stay packed, and products with them.

mod k_quants;
mod legacy;
mod lookup;
mod nf4;
mod packed;
mod product;
#[cfg(test)]
mod tests;

use half::bf16;
use rayon::prelude::*;

use crate::dispatch::multiversion;
pub use nf4::{
    BLOCK as NF4_BLOCK, CODE as NF4_CODE, Nf4, Nf4Encoder, Nf4Scales, NotFinite, PartError,
    dynamic_map as nf4_scale_map,
};
pub use packed::{PackError, PackedMatrix};
pub use product::{nn, nt};

/// Values that are decoded at a time: the smallest number that every block type holds a multiple of.
const PART: usize = 32;

/// A type of GGUF tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "ggml's names")]
#[expect(missing_docs, reason = "ggml's names say all there is")]
pub enum GgufType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Bytes that do not hold the values asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The number of values is no whole number of blocks.
    #[error(
        "{values} values are no whole number of {kind:?} blocks of {block_size}: the tensor's shape does not fit its type"
    )]
    Values {
        /// The type.
        kind: GgufType,
        /// The values asked for.
        values: usize,
        /// Values of a block.
        block_size: usize,
    },
    /// The number of bytes is not that of the values.
    #[error(
        "{values} values of type {kind:?} take {expected} bytes, not {bytes}: the file is truncated or its header is wrong"
    )]
    Bytes {
        /// The type.
        kind: GgufType,
        /// The values asked for.
        values: usize,
        /// What they take.
        expected: usize,
        /// The bytes given.
        bytes: usize,
    },
}

impl GgufType {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The type with this number in a GGUF file (ggml's `enum ggml_type`), if it is one of these.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The number of the type in a GGUF file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Values of a block.
    pub fn block_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => legacy::BLOCK,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => k_quants::BLOCK,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a tensor of so many values.
    ///
    /// # Errors
    /// If they are no whole number of blocks, or more than can be addressed.
    pub fn bytes_of(self, values: usize) -> Result<usize, DecodeError> {
        let block_size = self.block_size();
        (values / block_size)
            .checked_mul(self.block_bytes())
            .filter(|_| values.is_multiple_of(block_size))
            .ok_or(DecodeError::Values { kind: self, values, block_size })
    }
}

/// Blocks that one task decodes.
const TASK_VALUES: usize = 16_384;

/// Decodes the blocks in `bytes` into `out`, on all threads.
///
/// # Errors
/// If `bytes` is not exactly as long as `out.len()` values of this type are.
pub fn decode(kind: GgufType, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
    let expected = kind.bytes_of(out.len())?;
    if bytes.len() != expected {
        return Err(DecodeError::Bytes { kind, values: out.len(), expected, bytes: bytes.len() });
    }
    let task_bytes = TASK_VALUES / kind.block_size() * kind.block_bytes();
    bytes.par_chunks(task_bytes).zip(out.par_chunks_mut(TASK_VALUES)).for_each(|(bytes, out)| match kind {
        GgufType::F32 => each(bytes, out, f32::from_le_bytes),
        GgufType::F16 => each(bytes, out, |bytes| half(u16::from_le_bytes(bytes))),
        GgufType::BF16 => each(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        _ => parts(kind, bytes, 0, out.as_chunks_mut().0),
    });
    Ok(())
}

/// Decodes numbers of B bytes that stand alone.
fn each<const B: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; B]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<B>().0) {
        *out = decode(*bytes);
    }
}

/// Decodes values `first ..` of the blocks in `bytes`, on this thread; `kind` has blocks.
///
/// # Panics
/// If there are not as many values.
fn range(kind: GgufType, bytes: &[u8], first: usize, out: &mut [f32]) {
    let (mut part, within) = (first / PART, first % PART);
    let mut edge = [0.0; PART];
    let mut out = out;
    if within > 0 {
        let count = (PART - within).min(out.len());
        let (head, rest) = out.split_at_mut(count);
        parts(kind, bytes, part, std::slice::from_mut(&mut edge));
        head.copy_from_slice(&edge[within..within + count]);
        (part, out) = (part + 1, rest);
    }
    let (whole, tail) = out.as_chunks_mut::<PART>();
    parts(kind, bytes, part, whole);
    if !tail.is_empty() {
        parts(kind, bytes, part + whole.len(), std::slice::from_mut(&mut edge));
        tail.copy_from_slice(&edge[..tail.len()]);
    }
}

multiversion! {
    /// Decodes the parts of 32 values from part `first` on; `kind` has blocks.
    fn parts<FMA>(kind: GgufType, bytes: &[u8], first: usize, out: &mut [[f32; PART]]) {
        match kind {
            GgufType::F32 | GgufType::F16 | GgufType::BF16 => {}
            GgufType::Q4_0 => each_part::<_, 1>(bytes, first, out, |b, _, y| legacy::q4_0(b, y)),
            GgufType::Q4_1 => each_part::<_, 1>(bytes, first, out, |b, _, y| legacy::q4_1(b, y)),
            GgufType::Q5_0 => each_part::<_, 1>(bytes, first, out, |b, _, y| legacy::q5_0(b, y)),
            GgufType::Q5_1 => each_part::<_, 1>(bytes, first, out, |b, _, y| legacy::q5_1(b, y)),
            GgufType::Q8_0 => each_part::<_, 1>(bytes, first, out, |b, _, y| legacy::q8_0(b, y)),
            GgufType::Q2_K => each_part::<_, K_PARTS>(bytes, first, out, k_quants::q2_k),
            GgufType::Q3_K => each_part::<_, K_PARTS>(bytes, first, out, k_quants::q3_k),
            GgufType::Q4_K => each_part::<_, K_PARTS>(bytes, first, out, k_quants::q4_k),
            GgufType::Q5_K => each_part::<_, K_PARTS>(bytes, first, out, k_quants::q5_k),
            GgufType::Q6_K => each_part::<_, K_PARTS>(bytes, first, out, k_quants::q6_k),
        }
    }
}

/// Parts of a super-block.
const K_PARTS: usize = k_quants::BLOCK / PART;

/// Calls `decode` with the block of B bytes that holds a part, and which of its P parts it is.
#[inline(always)]
fn each_part<const B: usize, const P: usize>(
    bytes: &[u8],
    first: usize,
    out: &mut [[f32; PART]],
    decode: impl Fn(&[u8; B], usize, &mut [f32; PART]),
) {
    let blocks = bytes.as_chunks::<B>().0;
    for (index, out) in out.iter_mut().enumerate() {
        let part = first + index;
        decode(&blocks[part / P], part % P, out);
    }
}

/// The little-endian f16 at byte `at`.
#[inline(always)]
fn half_at<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    half(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The f16 of these bits. By one multiplication, which is exact for denormal numbers too; `half` asks the processor for its
/// features each time.
#[inline(always)]
fn half(bits: u16) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    const SPECIAL: u32 = 0x7c00;
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff));
    let finite = (f32::from_bits(magnitude << 13) * BIAS).to_bits();
    f32::from_bits(sign | if magnitude < SPECIAL { finite } else { 0x7f80_0000 | magnitude << 13 })
}
