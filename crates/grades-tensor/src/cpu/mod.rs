//! The processor: tensors in its memory, operations by the kernels of `grades-kernels`.

mod adapters;
mod layers;
mod losses;
mod memory;
mod projections;
mod training;
mod values;

pub use memory::{CPU, Cpu};
