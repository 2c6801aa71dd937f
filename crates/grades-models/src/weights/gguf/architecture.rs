//! The architectures of GGUF files, and what llama.cpp's converter does to the weights of each.

use super::Metadata;
use crate::weights::error::{Result, WeightsError};

/// An architecture that has a family here.
#[derive(Debug, PartialEq)]
pub(crate) struct Architecture {
    /// `general.architecture`, which also begins the names of its keys.
    pub(crate) name: &'static str,
    /// Hugging Face's `model_type`.
    pub(crate) model_type: &'static str,
    /// Hugging Face's class.
    pub(crate) class: &'static str,
    /// Whether the halves of each query and key head are stored interleaved: llama.cpp then rotates neighbouring pairs, where
    /// Hugging Face rotates halves of the head.
    pub(crate) interleaved: bool,
    /// What is added to the scales of all norms.
    pub(crate) norm_shift: f32,
}

const fn plain(name: &'static str, class: &'static str) -> Architecture {
    Architecture { name, model_type: name, class, interleaved: false, norm_shift: 0.0 }
}

const ARCHITECTURES: [Architecture; 9] = [
    Architecture { model_type: "gemma3_text", norm_shift: 1.0, ..plain("gemma3", "Gemma3ForCausalLM") },
    Architecture { interleaved: true, ..plain("llama", "LlamaForCausalLM") },
    plain("mistral", "MistralForCausalLM"),
    plain("phi3", "Phi3ForCausalLM"),
    plain("qwen2", "Qwen2ForCausalLM"),
    Architecture { model_type: "qwen2_5_vl", ..plain("qwen2vl", "Qwen2_5_VLForConditionalGeneration") },
    plain("qwen3", "Qwen3ForCausalLM"),
    Architecture { model_type: "qwen3_moe", ..plain("qwen3moe", "Qwen3MoeForCausalLM") },
    Architecture { interleaved: true, ..plain("smollm3", "SmolLM3ForCausalLM") },
];

/// A llama with experts, as llama.cpp calls it.
pub(super) const MIXTRAL: Architecture =
    Architecture { model_type: "mixtral", interleaved: true, ..plain("llama", "MixtralForCausalLM") };

impl Architecture {
    /// That of a file.
    pub(super) fn of(metadata: &Metadata) -> Result<&'static Self> {
        if let Some(kind) = metadata.string("general.type").filter(|kind| *kind != "model") {
            let problem = format!("it holds no model: its `general.type` is {kind}");
            return Err(WeightsError::unsupported(metadata.path(), problem));
        }
        let name = metadata.string("general.architecture").ok_or_else(|| metadata.missing("general.architecture"))?;
        if name == MIXTRAL.name && metadata.optional_count("expert_count")?.is_some() {
            return Ok(&MIXTRAL);
        }
        ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
            let problem = format!("its architecture is {name}, and GGUF files of {} can be read", known.join(", "));
            WeightsError::unsupported(metadata.path(), problem)
        })
    }

    /// That which llama.cpp has for a `model_type`; a Mistral is a llama to it.
    pub(crate) fn of_model(model_type: &str) -> Option<&'static Self> {
        if model_type == MIXTRAL.model_type {
            return Some(&MIXTRAL);
        }
        let name = if model_type == "mistral" { "llama" } else { model_type };
        ARCHITECTURES.iter().find(|known| known.model_type == name)
    }

    /// The names of all of them as `model_type`.
    pub(crate) fn model_types() -> Vec<&'static str> {
        ARCHITECTURES.iter().chain([&MIXTRAL]).map(|known| known.model_type).collect()
    }
}
