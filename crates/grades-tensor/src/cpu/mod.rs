//! The processor: tensors in its memory, operations by the kernels of `grades-kernels`.

mod adapters;
mod experts;
mod layers;
mod losses;
mod memory;
mod processor;
mod projections;
mod training;
mod values;

pub use processor::{CPU, Cpu};
