//! Matrix products in f32; in bf16 under [`bf16`].
//!
//! A product is cut into tasks of some panels of columns (`panels`), of which each thread packs its own, and into tiles, whose
//! sums stay in registers: `single` for f32 on every processor, [`bf16`] where it multiplies bf16 itself. `rows` is what an operand must
//! offer; small products within the cache (`banded`) pack nothing.
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
mod blocks;
mod matrix;
mod panels;
mod products;
#[cfg(test)]
mod reference;
mod rows;
mod single;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub(crate) use banded::{Band, TILE_ROWS, banded};
pub use blocks::{Blocks, Kind, Sizes};
pub use matrix::{Matrix, MatrixMut};
#[cfg(target_arch = "x86_64")]
pub(crate) use panels::Buffer;
pub use products::{nn, nn_rows, nt, nt_rows, tn, tn_new};
pub(crate) use rows::Span;
