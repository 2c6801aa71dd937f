//! Models by name, without their weights.

use std::fmt;
use std::str::FromStr;

use grades_models::config::HfConfig;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::BenchError;

/// The sizes of a model that is made up with random values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// SmolLM2-135M.
    SmolLm2M135,
    /// SmolLM2-135M with 8 experts in the place of each MLP, half as wide, of which a token has 2: as many active parameters.
    SmolLm2Moe,
    /// SmolLM2-360M.
    SmolLm2M360,
    /// Llama-3.2-1B.
    Llama1B,
    /// Qwen3-0.6B.
    Qwen3B06,
    /// Qwen3-14B.
    Qwen3B14,
    /// nanoVLM-222M: SigLIP-base (patches of 16 pixels, 224) before SmolLM2-135M.
    NanoVlmM222,
    /// Qwen2.5-VL-3B.
    Qwen25VlB3,
    /// Qwen2.5-VL-7B.
    Qwen25VlB7,
    /// Four small layers, for tests.
    Tiny,
    /// Two small layers behind a tower of two, for tests.
    TinyVlm,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 11] = [
        Self::SmolLm2M135,
        Self::SmolLm2Moe,
        Self::SmolLm2M360,
        Self::Llama1B,
        Self::Qwen3B06,
        Self::Qwen3B14,
        Self::NanoVlmM222,
        Self::Qwen25VlB3,
        Self::Qwen25VlB7,
        Self::Tiny,
        Self::TinyVlm,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SmolLm2M135 => "smollm2-135m",
            Self::SmolLm2Moe => "smollm2-moe",
            Self::SmolLm2M360 => "smollm2-360m",
            Self::Llama1B => "llama-1b",
            Self::Qwen3B06 => "qwen3-0.6b",
            Self::Qwen3B14 => "qwen3-14b",
            Self::NanoVlmM222 => "nanovlm-222m",
            Self::Qwen25VlB3 => "qwen2.5-vl-3b",
            Self::Qwen25VlB7 => "qwen2.5-vl-7b",
            Self::Tiny => "tiny",
            Self::TinyVlm => "tiny-vlm",
        }
    }

    /// Its `config.json`.
    #[must_use]
    pub fn config(self) -> HfConfig {
        let smollm2 = json!({
            "model_type": "llama",
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100_000.0,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": true,
        });
        let other = match self {
            Self::SmolLm2M135 => json!({}),
            Self::SmolLm2Moe => json!({
                "model_type": "mixtral",
                "intermediate_size": 768,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
            }),
            Self::SmolLm2M360 => json!({
                "hidden_size": 960,
                "intermediate_size": 2560,
                "num_hidden_layers": 32,
                "num_attention_heads": 15,
                "num_key_value_heads": 5,
            }),
            Self::Llama1B => json!({
                "vocab_size": 128_256,
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 16,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "rope_theta": 500_000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
                "max_position_embeddings": 131_072,
            }),
            Self::Qwen3B06 => json!({
                "model_type": "qwen3",
                "vocab_size": 151_936,
                "hidden_size": 1024,
                "intermediate_size": 3072,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1_000_000.0,
                "max_position_embeddings": 40_960,
            }),
            Self::Qwen3B14 => json!({
                "model_type": "qwen3",
                "vocab_size": 151_936,
                "hidden_size": 5120,
                "intermediate_size": 17_408,
                "num_hidden_layers": 40,
                "num_attention_heads": 40,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1_000_000.0,
                "max_position_embeddings": 40_960,
                "tie_word_embeddings": false,
            }),
            Self::NanoVlmM222 => return nanovlm(&json!({})),
            Self::Qwen25VlB3 => return qwen2_5_vl([2048, 11_008, 36, 16, 2, 151_936], true),
            Self::Qwen25VlB7 => return qwen2_5_vl([3584, 18_944, 28, 28, 4, 152_064], false),
            Self::TinyVlm => {
                return nanovlm(&json!({
                    "vit_hidden_dim": 32, "vit_inter_dim": 64, "vit_patch_size": 4, "vit_img_size": 16, "vit_n_heads": 2,
                    "vit_n_blocks": 2, "lm_hidden_dim": 32, "lm_inter_dim": 64, "lm_n_heads": 4, "lm_n_kv_heads": 2,
                    "lm_n_blocks": 2, "lm_vocab_size": 256, "lm_max_position_embeddings": 512,
                }));
            }
            Self::Tiny => json!({
                "vocab_size": 256,
                "hidden_size": 64,
                "intermediate_size": 160,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "max_position_embeddings": 512,
            }),
        };
        HfConfig::from(with(smollm2, other))
    }

    /// Whether it reads pictures.
    #[must_use]
    pub fn sees(self) -> bool {
        matches!(self, Self::NanoVlmM222 | Self::Qwen25VlB3 | Self::Qwen25VlB7 | Self::TinyVlm)
    }
}

/// A nanoVLM of the first generation, with other sizes than those of 222M.
fn nanovlm(other: &Value) -> HfConfig {
    let plain = json!({
        "vit_hidden_dim": 768,
        "vit_inter_dim": 3072,
        "vit_patch_size": 16,
        "vit_img_size": 224,
        "vit_n_heads": 12,
        "vit_n_blocks": 12,
        "vit_ln_eps": 1e-6,
        "lm_hidden_dim": 576,
        "lm_inter_dim": 1536,
        "lm_rms_eps": 1e-5,
        "lm_re_base": 100_000,
        "lm_max_position_embeddings": 8192,
        "lm_vocab_size": 49_152,
        "lm_n_heads": 9,
        "lm_n_kv_heads": 3,
        "lm_n_blocks": 30,
        "lm_tie_weights": true,
        "mp_pixel_shuffle_factor": 2,
    });
    HfConfig::from(with(plain, other.clone()))
}

/// A Qwen2.5-VL of these sizes of its language model: hidden, MLP, layers, heads, those of keys and values, vocabulary.
fn qwen2_5_vl([hidden, inner, layers, heads, kv_heads, vocabulary]: [usize; 6], tied: bool) -> HfConfig {
    let config = json!({
        "model_type": "qwen2_5_vl",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 128_000,
        "image_token_id": 151_655,
        "vision_config": { "hidden_size": 1280, "model_type": "qwen2_5_vl", "out_hidden_size": hidden },
        "rope_scaling": { "type": "mrope", "mrope_section": [16, 24, 24] },
    });
    HfConfig::from(with(config, json!({})))
}

/// The keys of both objects; where both have one, that of the second.
fn with(first: Value, second: Value) -> serde_json::Map<String, Value> {
    let object = |value| if let Value::Object(object) = value { object } else { serde_json::Map::new() };
    object(first).into_iter().chain(object(second)).collect()
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Shape {
    type Err = BenchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|shape| shape.name() == text)
            .ok_or_else(|| BenchError::Shape { found: text.into(), known: Self::ALL.map(Self::name).join(", ") })
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_round_trip_through_their_names() {
        for shape in Shape::ALL {
            assert_eq!(shape.to_string().parse::<Shape>().unwrap(), shape);
        }
        let message = "gpt-9".parse::<Shape>().unwrap_err().to_string();
        assert!(message.contains("`gpt-9`") && message.contains("smollm2-135m"), "{message}");
    }
}
