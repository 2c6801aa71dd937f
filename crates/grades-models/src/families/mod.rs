//! One file per architecture, named as Hugging Face's `model_type`: it names the tensors and puts blocks together.

pub(crate) mod llama;
pub(crate) mod mistral;
pub(crate) mod phi3;
pub(crate) mod qwen2;
pub(crate) mod qwen3;
mod wiring;
