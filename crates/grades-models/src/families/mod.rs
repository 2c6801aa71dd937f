//! One file per architecture, named as Hugging Face's `model_type`: it reads from the config what is its own, names the
//! tensors and puts blocks together. Those of vision towers are loaded alone, or as a part of what reads pictures and texts.

pub(crate) mod dinov2;
mod experts;
pub(crate) mod gemma3_text;
pub(crate) mod llama;
pub(crate) mod mistral;
pub(crate) mod mixtral;
pub(crate) mod nanovlm;
pub(crate) mod phi3;
pub(crate) mod qwen2;
pub(crate) mod qwen2_5_vl;
pub(crate) mod qwen3;
pub(crate) mod qwen3_moe;
pub(crate) mod siglip;
pub(crate) mod smollm3;
pub(crate) mod towers;
mod vit;
pub(crate) mod wiring;
