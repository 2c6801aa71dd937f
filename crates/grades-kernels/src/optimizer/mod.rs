//! The optimizer's update, and what the freezing rule measures of a gradient before it.
//!
//! [`measure()`] sums a gradient and its change since the previous step. It comes first, before clipping, because a matrix
//! that freezes at a step is not updated in it; [`adamw`], [`adamw_8bit`], [`lion`], [`muon`] and [`sgd`] then update the
//! parameters that still train.

mod adamw;
mod blockwise;
mod lion;
mod measure;
mod muon;
mod sgd;
#[cfg(test)]
mod tests;
mod update;

pub use crate::elementwise::{axpy, scale};
pub use adamw::{AdamW, AdamWState, adamw};
pub use blockwise::{Codes, STATE_BLOCK, StateMap, adamw_8bit, state_scales};
pub use lion::{Lion, lion};
pub use measure::{Measure, Sums, measure, sum_squares};
pub use muon::{AdjustLr, Muon, muon};
pub use sgd::{Sgd, sgd};
pub use update::Update;
