//! Tensor names of GGUF in those of Hugging Face, and the other way.
//!
//! Source: `TENSOR_NAMES` of gguf-py 0.19. phi3 fuses query, key, value and gate, up, as its Hugging Face model does.

use super::architecture::Architecture;

/// What a GGUF tensor becomes.
pub(super) enum Mapped {
    /// A weight of the model.
    Weight(String),
    /// Not a weight: rotary factors, which belong to the config.
    Skipped,
    /// The architecture has no such tensor.
    Unknown,
}

/// Outside layers.
const OUTSIDE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// In a layer of every architecture.
const INSIDE: [(&str, &str); 14] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    // A matrix of every expert in one tensor; transformers has no name for these three.
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
];

/// In a layer, where architectures differ.
fn own(architecture: &Architecture) -> &'static [(&'static str, &'static str)] {
    match architecture.name {
        "gemma3" => &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
            ("ffn_up", "mlp.up_proj"),
        ],
        "phi3" => &[("ffn_norm", "post_attention_layernorm"), ("ffn_up", "mlp.gate_up_proj")],
        _ => &[("ffn_norm", "post_attention_layernorm"), ("ffn_up", "mlp.up_proj")],
    }
}

fn inside(architecture: &Architecture) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    INSIDE.iter().chain(own(architecture))
}

/// The Hugging Face name of a GGUF tensor.
pub(super) fn to_hugging_face(name: &str, architecture: &Architecture) -> Mapped {
    let Some((stem, suffix @ ("weight" | "bias"))) = name.rsplit_once('.') else { return Mapped::Unknown };
    if matches!(stem, "rope_freqs" | "rope_factors_long" | "rope_factors_short") {
        return Mapped::Skipped;
    }
    if let Some((_, outside)) = OUTSIDE.iter().find(|(gguf, _)| *gguf == stem) {
        return Mapped::Weight(format!("{outside}.{suffix}"));
    }
    let layer = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((layer, part)) = layer.and_then(|(layer, part)| Some((layer.parse::<u32>().ok()?, part))) else {
        return Mapped::Unknown;
    };
    if matches!(part, "rope_freqs" | "attn_rot_embd") {
        return Mapped::Skipped;
    }
    match inside(architecture).find(|(gguf, _)| *gguf == part) {
        Some((_, inside)) => Mapped::Weight(format!("model.layers.{layer}.{inside}.{suffix}")),
        None => Mapped::Unknown,
    }
}

/// The GGUF name of a tensor of Hugging Face, `model.layers.0.mlp.up_proj.weight`; what follows the part, such as `.lora_a`,
/// stays as it is.
pub(crate) fn from_hugging_face(name: &str, architecture: &Architecture) -> Option<String> {
    let renamed = |name: &str, theirs: &str, ours: &str| {
        let rest = name.strip_prefix(theirs)?;
        rest.starts_with('.').then(|| format!("{ours}{rest}"))
    };
    if let Some(name) = OUTSIDE.iter().find_map(|(gguf, theirs)| renamed(name, theirs, gguf)) {
        return Some(name);
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let part = inside(architecture).find_map(|(gguf, theirs)| renamed(part, theirs, gguf))?;
    Some(format!("blk.{layer}.{part}"))
}
