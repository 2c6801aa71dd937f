//! The reference: every operation as a few plain loops in f32 with sums in f64, for other devices to be compared with.
//!
//! It follows the formulas, not the speed. A bf16 tensor holds f32 values that are rounded to it; packed weights are held
//! decoded.

mod adapters;
mod experts;
mod layers;
mod losses;
mod memory;
mod projections;
mod training;

pub use memory::REFERENCE;
