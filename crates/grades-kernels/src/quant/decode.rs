//! Decoding GGUF blocks to f32.

use half::bf16;
use rayon::prelude::*;

use super::gguf::{DecodeError, GgufType};
use super::part::{PART, half};
use super::{k_quants, legacy, nonlinear};
use crate::dispatch::multiversion;

/// Values that one task decodes.
pub(super) const TASK_VALUES: usize = 16_384;

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

/// Decodes values of B bytes that stand alone.
fn each<const B: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; B]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<B>().0) {
        *out = decode(*bytes);
    }
}

/// Decodes values `first ..` of the blocks in `bytes`, on this thread; `kind` has blocks.
///
/// # Panics
/// If there are not as many values.
pub(super) fn range(kind: GgufType, bytes: &[u8], first: usize, out: &mut [f32]) {
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
            GgufType::IQ4_NL => each_part::<_, 1>(bytes, first, out, |b, _, y| nonlinear::iq4_nl(b, y)),
            GgufType::IQ4_XS => each_part::<_, K_PARTS>(bytes, first, out, nonlinear::iq4_xs),
            GgufType::MXFP4 => each_part::<_, 1>(bytes, first, out, |b, _, y| nonlinear::mxfp4(b, y)),
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
