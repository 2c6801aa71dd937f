//! Transformer language models: blocks, families, weights, adapters, tokenizers, generation.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make the files that they need"))]

pub mod adapter;
pub mod calendar;
pub mod config;
mod error;
pub mod export;
mod families;
pub mod fields;
mod fused_experts;
pub mod generate;
pub mod generation_config;
pub mod model;
mod names;
pub mod nn;
pub mod parameters;
pub mod parts;
pub mod random;
pub mod registry;
pub mod sampling;
pub mod saving;
pub mod source;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use adapter::{LoraConfig, part_of_target, peft};
pub use error::Error;
pub use model::{Decoder, Inputs, KvCache, KvCaches};
