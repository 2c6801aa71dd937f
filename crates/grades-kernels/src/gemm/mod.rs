//! Matrix products in f32; in bf16 under [`bf16`].
//!
//! The three products of a linear layer `y = x · wᵀ` with the weight as `[out, in]`:
//! - forward: [`nt`] of `x [rows, in]` and `w [out, in]` gives `y [rows, out]`;
//! - input gradient: [`nn`] of `dy [rows, out]` and `w [out, in]` gives `dx [rows, in]`;
//! - weight gradient: [`tn`] of `dy [rows, out]` and `x [rows, in]` gives `dw [out, in]`.
//!
//! What an element is summed from, and in which order, does not depend on the number of threads. A product that is added to its
//! result may add partial sums to it one after the other, so that it is not to the bit the product and a sum apart.

mod banded;
pub mod bf16;
mod few_rows;
mod matrix;
mod portable;
mod products;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use banded::{Band, TILE_ROWS, banded};
pub use matrix::{Matrix, MatrixMut};
pub use products::{nn, nt, tn, tn_new};
