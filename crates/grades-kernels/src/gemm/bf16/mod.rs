//! Matrix products in bf16 with sums in f32.
//!
//! The same three products of a linear layer `y = x · wᵀ` as in [`super`], with activations and their gradients in
//! bf16, weights in f32 (or in any form that [`Rows`] decodes), rounded to bf16 while they are packed, and weight
//! gradients in f32. On a processor with AVX512-BF16 the products run on its dot-product instruction, which treats
//! denormal numbers as zero, and where the processor has AMX, and the system allows it, on tiles of that (`amx`); elsewhere the rounded
//! numbers are multiplied in f32.
//!
//! A weight is packed panel by panel by the thread that needs the panel next, so that nothing of a whole weight's
//! size is written, and once for all rows of the batch.

#[cfg(target_arch = "x86_64")]
mod amx;
mod gated;
mod output;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack;
mod portable;
#[cfg(target_arch = "x86_64")]
mod product;
mod products;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tile;
#[cfg(target_arch = "x86_64")]
mod unit;
#[cfg(target_arch = "x86_64")]
mod weight_gradient;

pub use super::rows::Rows;
pub use gated::gated_new;
pub use output::{Output, Part};
pub use products::{is_native, nn, nn_new, nt, nt_new, nt_onto, tn, tn_new};
#[cfg(target_arch = "x86_64")]
pub(crate) use unit::has_amx as runs_on_amx;
