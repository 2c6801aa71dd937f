//! Encoding f32 as GGUF blocks, as ggml's `quantize_row_*_ref` functions choose the codes.
//!
//! Of the codes that a block type allows, the k-quants are searched for those with the least weighted squared error; which weights
//! and which scales are tried is ggml's choice, so that a file is as good as one of `llama-quantize`.

mod k_quants;
mod legacy;
mod search;
#[cfg(test)]
mod tests;

use half::{bf16, f16};
use rayon::prelude::*;

use super::gguf::{DecodeError, GgufType};
use crate::dispatch::multiversion;

/// Values that one task encodes; a multiple of every block.
const TASK_VALUES: usize = 16_384;

/// Why values cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The number of values is no whole number of blocks.
    #[error(transparent)]
    Blocks(#[from] DecodeError),
    /// Blocks of the type are only read.
    #[error("{0:?} is read and not written; write Q4_0, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F32, F16 or BF16")]
    Type(GgufType),
    /// A value is infinite or not a number.
    #[error("value {index} is not a finite number, which blocks cannot hold: the weights are damaged")]
    NotFinite {
        /// Which of the values.
        index: usize,
    },
}

/// The blocks of `values`, on all threads. Every row of a matrix must be a whole number of blocks.
///
/// # Errors
/// If `values` are no whole number of blocks, one of them is not finite, or the type is only read.
pub fn encode(kind: GgufType, values: &[f32]) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![0; kind.bytes_of(values.len())?];
    if !is_written(kind) {
        return Err(EncodeError::Type(kind));
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()).filter(|_| kind.block_size() > 1) {
        return Err(EncodeError::NotFinite { index });
    }
    let task_bytes = TASK_VALUES / kind.block_size() * kind.block_bytes();
    values.par_chunks(TASK_VALUES).zip(bytes.par_chunks_mut(task_bytes)).for_each(|(values, bytes)| match kind {
        GgufType::F32 => each(values, bytes, f32::to_le_bytes),
        GgufType::F16 => each(values, bytes, |value| f16::from_f32(value).to_le_bytes()),
        GgufType::BF16 => each(values, bytes, |value| bf16::from_f32(value).to_le_bytes()),
        _ => blocks(kind, values, bytes),
    });
    Ok(bytes)
}

/// Whether [`encode`] has a way of encoding this type.
pub fn is_written(kind: GgufType) -> bool {
    use GgufType::{BF16, F16, F32, Q4_0, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    matches!(kind, F32 | F16 | BF16 | Q4_0 | Q5_0 | Q5_1 | Q8_0 | Q4_K | Q5_K | Q6_K)
}

fn each<const B: usize>(values: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; B]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<B>().0) {
        *bytes = encode(*value);
    }
}

multiversion! {
    fn blocks<FMA>(kind: GgufType, values: &[f32], bytes: &mut [u8]) {
        match kind {
            GgufType::Q4_0 => each_block(values, bytes, legacy::q4_0),
            GgufType::Q5_0 => each_block(values, bytes, legacy::q5_0),
            GgufType::Q5_1 => each_block(values, bytes, legacy::q5_1),
            GgufType::Q8_0 => each_block(values, bytes, legacy::q8_0),
            GgufType::Q4_K => each_block(values, bytes, k_quants::q4_k),
            GgufType::Q5_K => each_block(values, bytes, k_quants::q5_k),
            GgufType::Q6_K => each_block(values, bytes, k_quants::q6_k),
            _ => {}
        }
    }
}

#[inline(always)]
fn each_block<const N: usize, const B: usize>(
    values: &[f32],
    bytes: &mut [u8],
    encode: impl Fn(&[f32; N], &mut [u8; B]),
) {
    for (values, bytes) in values.as_chunks::<N>().0.iter().zip(bytes.as_chunks_mut::<B>().0) {
        encode(values, bytes);
    }
}

/// The nearest whole number, of two the even one, of numbers below 2²².
#[inline(always)]
fn nearest(value: f32) -> f32 {
    const ONES: f32 = 12_582_912.0;
    value + ONES - ONES
}

/// The value with the largest magnitude; of several the first.
#[inline(always)]
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0_f32, |extreme, &value| if value.abs() > extreme.abs() { value } else { extreme })
}

/// 1 / x, and 0 for 0.
#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// An f16 as it is stored, and the number that it then is.
#[inline(always)]
fn stored(value: f32, at: &mut [u8]) -> f32 {
    let half = f16::from_f32(value);
    at[..2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}
