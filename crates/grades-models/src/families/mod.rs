//! One file per architecture, named as Hugging Face's `model_type`: from its config to the parts in `nn`.

pub(crate) mod llama;
pub(crate) mod mistral;
pub(crate) mod qwen2;
