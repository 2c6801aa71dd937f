//! Tensor names of GGUF in those of Hugging Face.

/// What a GGUF tensor becomes.
pub(super) enum Mapped {
    /// A weight of the model.
    Weight(String),
    /// Not a weight: rotary factors, which belong to the config.
    Skipped,
    /// No architecture supported here has such a tensor.
    Unknown,
}

/// The Hugging Face name of a GGUF tensor of a dense decoder.
///
/// Source: `TENSOR_NAMES` of gguf-py 0.19. phi3 fuses query, key, value and gate, up, as its Hugging Face model does.
pub(super) fn to_hugging_face(name: &str, architecture: &str) -> Mapped {
    let (stem, suffix) = match name.rsplit_once('.') {
        Some((stem, suffix @ ("weight" | "bias"))) => (stem, suffix),
        _ => return Mapped::Unknown,
    };
    let model = match stem {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        "rope_freqs" | "rope_factors_long" | "rope_factors_short" => return Mapped::Skipped,
        _ => None,
    };
    if let Some(model) = model {
        return Mapped::Weight(format!("{model}.{suffix}"));
    }
    let Some((layer, part)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return Mapped::Unknown;
    };
    let Ok(layer) = layer.parse::<u32>() else { return Mapped::Unknown };
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" if architecture == "phi3" => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "rope_freqs" | "attn_rot_embd" => return Mapped::Skipped,
        _ => return Mapped::Unknown,
    };
    Mapped::Weight(format!("model.layers.{layer}.{part}.{suffix}"))
}
