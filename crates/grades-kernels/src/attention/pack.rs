//! Keys and values laid out for the products: head by head, block by block.

use std::ops::Range;

use super::form::{Attention, BLOCK_KEYS};
use super::segment::{Segment, VECTOR};
use crate::Element;
use crate::element::convert;
use crate::gemm::Matrix;
use crate::threads::each;

/// The layout of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[keys, head_dim]`.
    Rows,
    /// `[head_dim, keys]`, padded with zeros to whole vectors of keys.
    Columns,
}

/// Keys or values of all segments as blocks of at most [`BLOCK_KEYS`] of one head.
pub(super) struct Packed {
    data: Vec<f32>,
    /// Where each segment starts.
    starts: Vec<usize>,
    layout: Layout,
    head_dim: usize,
}

/// Keys that each block of a segment has room for.
fn room(segment: &Segment) -> usize {
    segment.keys.len().next_multiple_of(VECTOR).min(BLOCK_KEYS)
}

/// Elements that one head of a segment takes.
fn head_len(segment: &Segment, head_dim: usize) -> usize {
    segment.keys.len().div_ceil(BLOCK_KEYS) * room(segment) * head_dim
}

impl Packed {
    /// Packs `source [key tokens, kv_heads, head_dim]` of the segments whose numbers `wanted` names.
    pub(super) fn new(
        attention: &Attention,
        segments: &[Segment],
        wanted: impl Fn(usize) -> bool,
        source: &[impl Element],
        layout: Layout,
    ) -> Self {
        let (head_dim, width) = (attention.head_dim, attention.key_width());
        let mut starts = Vec::with_capacity(segments.len());
        let mut len = 0;
        for (index, segment) in segments.iter().enumerate() {
            starts.push(len);
            if wanted(index) {
                len += head_len(segment, head_dim) * attention.kv_heads;
            }
        }
        let mut data = vec![0.0; len];
        let mut rest = &mut data[..];
        let mut jobs = Vec::new();
        for (_, segment) in segments.iter().enumerate().filter(|(index, _)| wanted(*index)) {
            for head in 0..attention.kv_heads {
                let keys = segment.keys.clone();
                for block in keys.clone().step_by(BLOCK_KEYS) {
                    let target = rest.split_off_mut(..room(segment) * head_dim).unwrap_or_default();
                    jobs.push((target, block..keys.end.min(block + BLOCK_KEYS), head));
                }
            }
        }
        each(jobs, |(target, keys, head)| {
            let row = |key: usize| &source[key * width + head * head_dim..][..head_dim];
            match layout {
                Layout::Rows => {
                    for (target, key) in target.chunks_exact_mut(head_dim).zip(keys) {
                        convert(row(key), target);
                    }
                }
                Layout::Columns => transpose(row, keys, target, head_dim),
            }
        });
        Self { data, starts, layout, head_dim }
    }

    /// The block of `keys` (counted within the segment, from a multiple of [`BLOCK_KEYS`]) of one head of the segment
    /// number `index`: `[keys, head_dim]`, or `[head_dim, keys]` with padded columns.
    pub(super) fn block(&self, index: usize, segment: &Segment, head: usize, keys: &Range<usize>) -> Matrix<'_> {
        let room = room(segment);
        let start = self.starts[index]
            + head * head_len(segment, self.head_dim)
            + keys.start / BLOCK_KEYS * room * self.head_dim;
        let data = &self.data[start..start + room * self.head_dim];
        match self.layout {
            Layout::Rows => Matrix::new(data, keys.len(), self.head_dim),
            Layout::Columns => Matrix::with_stride(data, self.head_dim, keys.len().next_multiple_of(VECTOR), room),
        }
    }
}

/// Writes rows as the columns of `target [head_dim, room]`.
fn transpose<'a, E: Element>(row: impl Fn(usize) -> &'a [E], keys: Range<usize>, target: &mut [f32], head_dim: usize) {
    let room = target.len() / head_dim;
    // Vectors of keys at a time: each column of theirs is one cache line of the target.
    for first in keys.clone().step_by(VECTOR) {
        let rows: [&[E]; VECTOR] = std::array::from_fn(|i| row((first + i).min(keys.end - 1)));
        let count = VECTOR.min(keys.end - first);
        for d in 0..head_dim {
            let start = d * room + first - keys.start;
            for (target, row) in target[start..start + count].iter_mut().zip(&rows) {
                *target = row[d].widen();
            }
        }
    }
}
