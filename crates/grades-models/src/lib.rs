//! Transformer models on Burn.

pub mod tokenizer;
pub mod weights;
