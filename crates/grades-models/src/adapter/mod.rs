//! Low-rank adapters (LoRA, Hu et al. 2021; DoRA, Liu et al. 2024): their options, how they come beside a model's linear
//! layers, and their files.

mod attach;
mod config;
mod names;
pub mod peft;

pub(crate) use attach::linear;
pub use config::{LoraConfig, part_of_target};
