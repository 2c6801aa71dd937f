//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-split convention of Hugging Face:
//! element `i` of a head is paired with element `i + rotary_dim / 2`.

use rayon::prelude::*;

use crate::OutOfRange;
use crate::dispatch::multiversion;
use crate::math::mul_add;

/// Cosines and sines of every position's angles, `[positions, rotary_dim / 2]` each.
#[derive(Clone, Copy, Debug)]
pub struct RotaryTable<'a> {
    /// cos(position · frequency), times the attention scaling where a model has one.
    pub cos: &'a [f32],
    /// sin(position · frequency), likewise.
    pub sin: &'a [f32],
    /// How many elements at the start of each head rotate; even, at most the head's size.
    pub rotary_dim: usize,
}

/// The sense of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// By the angle: the forward pass.
    Forward,
    /// By minus the angle: the backward pass.
    Inverse,
}

/// Rows of a block of work.
const BLOCK_ROWS: usize = 16;

/// Rotates every head of `x [rows, heads, head_dim]` in place, row `r` by the angles of `positions[r]`.
///
/// # Errors
/// If a position lies outside the table; `x` is then unchanged.
///
/// # Panics
/// If a length does not fit.
pub fn rope(
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    table: RotaryTable,
    positions: &[u32],
    rotation: Rotation,
) -> Result<(), OutOfRange> {
    let half = table.rotary_dim / 2;
    assert_eq!(table.rotary_dim % 2, 0, "an odd number of elements cannot be paired");
    assert!(table.rotary_dim <= head_dim);
    assert_eq!(table.cos.len(), table.sin.len());
    assert_eq!(x.len(), positions.len() * heads * head_dim);
    if x.is_empty() || half == 0 {
        return Ok(());
    }
    let limit = table.cos.len() / half;
    if let Some(row) = positions.iter().position(|&p| p as usize >= limit) {
        return Err(OutOfRange { what: "position", row, value: i64::from(positions[row]), limit });
    }
    x.par_chunks_mut(BLOCK_ROWS * heads * head_dim).zip(positions.par_chunks(BLOCK_ROWS)).for_each(|(x, positions)| {
        rotate_rows(x, heads, head_dim, table, positions, rotation);
    });
    Ok(())
}

multiversion! {
    fn rotate_rows<FMA>(
        x: &mut [f32], heads: usize, head_dim: usize, table: RotaryTable, positions: &[u32], rotation: Rotation,
    ) {
        let half = table.rotary_dim / 2;
        let sign = match rotation {
            Rotation::Forward => 1.0,
            Rotation::Inverse => -1.0,
        };
        for (row, &position) in x.chunks_exact_mut(heads * head_dim).zip(positions) {
            let start = position as usize * half;
            let (cos, sin) = (&table.cos[start..start + half], &table.sin[start..start + half]);
            for head in row.chunks_exact_mut(head_dim) {
                let (first, rest) = head.split_at_mut(half);
                for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                    let sin = sin * sign;
                    let rotated = mul_add::<FMA>(*a, *cos, -(*b * sin));
                    *b = mul_add::<FMA>(*b, *cos, *a * sin);
                    *a = rotated;
                }
            }
        }
    }
}
