//! Packing operands as the tiles read them: panels `[inner, width]`, one after the other.

use std::ops::Range;

use super::vector::Vector;
use crate::gemm::rows::{AHEAD, Rows};

/// The most lanes of a vector.
const MAX_LANES: usize = 16;

/// Packs rows `first ..` of `source` as the columns of one panel `[inner, WIDTH]`, zeros where the source has no more rows.
/// `scratch` is grown for rows that are decoded.
///
/// # Safety
/// The processor has the vector's instruction set, which the calling function enables; `out` takes a whole panel.
#[inline(always)]
pub(super) unsafe fn transposed<V: Vector, const WIDTH: usize>(
    source: &dyn Rows,
    first: usize,
    inner: Range<usize>,
    scratch: &mut Vec<f32>,
    out: *mut f32,
) {
    const { assert!(V::LANES <= MAX_LANES && WIDTH.is_multiple_of(V::LANES)) };
    let length = inner.len();
    scratch.resize(V::LANES * length, 0.0);
    for group in (0..WIDTH).step_by(V::LANES) {
        let mut scratch = scratch.as_mut_slice();
        let rows: [&[f32]; MAX_LANES] = std::array::from_fn(|i| {
            let part = if i < V::LANES { scratch.split_off_mut(..length).unwrap_or_default() } else { &mut [] };
            if i < V::LANES && first + group + i < source.rows() {
                source.row(first + group + i, inner.clone(), part)
            } else {
                part.fill(0.0);
                part
            }
        });
        let starts = rows.map(<[f32]>::as_ptr);
        let whole = length / V::LANES * V::LANES;
        // SAFETY: each of the first rows, as many as there are lanes, has `length` numbers; the panel has room for as many
        // columns from here.
        unsafe {
            for from in (0..whole).step_by(V::LANES) {
                V::transpose(&starts.map(|start| start.wrapping_add(from)), out.add(from * WIDTH + group), WIDTH);
            }
            for p in whole..length {
                for (i, start) in starts.iter().enumerate().take(V::LANES) {
                    *out.add(p * WIDTH + group + i) = *start.add(p);
                }
            }
        }
    }
}

/// Packs columns `columns` of rows `inner` of `source` as panels `[inner, WIDTH]` that lie `panel` numbers apart, zeros beyond.
///
/// # Safety
/// `out` takes all of the panels.
#[inline(always)]
pub(super) unsafe fn plain<const WIDTH: usize>(
    source: &dyn Rows,
    columns: Range<usize>,
    inner: Range<usize>,
    scratch: &mut Vec<f32>,
    out: *mut f32,
    panel: usize,
) {
    scratch.resize(columns.len(), 0.0);
    for (p, row) in inner.enumerate() {
        source.expect(row + AHEAD, columns.clone());
        let (whole, rest) = source.row(row, columns.clone(), scratch).as_chunks::<WIDTH>();
        // SAFETY: line `p` of each panel lies within it; numbers need no other alignment than theirs.
        unsafe {
            let out = out.add(p * WIDTH);
            for (index, line) in whole.iter().enumerate() {
                out.add(index * panel).cast::<[f32; WIDTH]>().write(*line);
            }
            if !rest.is_empty() {
                let mut line = [0.0; WIDTH];
                line[..rest.len()].copy_from_slice(rest);
                out.add(whole.len() * panel).cast::<[f32; WIDTH]>().write(line);
            }
        }
    }
}
