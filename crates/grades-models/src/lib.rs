//! Transformer models on Burn.

pub mod sampling;
pub mod template;
pub mod tokenizer;
pub mod weights;
