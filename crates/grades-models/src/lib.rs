//! Transformer models on Burn: operations, families, weights, tokenizers, generation.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests make the files that they need"))]

pub mod config;
mod error;
mod families;
pub mod generate;
pub mod host;
pub mod nn;
pub mod ops;
pub mod parameters;
pub mod peft;
pub mod random;
pub mod registry;
pub mod sampling;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use error::Error;
pub use nn::{Decoder, KvCache, LoraConfig, Tokens};
