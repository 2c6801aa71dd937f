//! Transformer models on Burn.
