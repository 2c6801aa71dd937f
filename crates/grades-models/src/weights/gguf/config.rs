//! The `config.json` that a GGUF file's metadata stands for.

use std::collections::BTreeSet;
use std::f64::consts::TAU;

use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::{Metadata, MetadataValue};
use crate::fields::{named, warn_once};
use crate::weights::error::{Result, WeightsError};

/// What the tensor table says about the model.
pub(super) struct Facts {
    /// Rows of the embedding.
    pub(super) vocab_size: usize,
    /// Whether there is no `output.weight`.
    pub(super) tied: bool,
    /// Whether the query projection has a bias.
    pub(super) attention_bias: bool,
    /// Whether the MLP projections have a bias.
    pub(super) mlp_bias: bool,
    /// The type of most unquantised matrices, as `torch_dtype` spells it.
    pub(super) torch_dtype: &'static str,
    /// `rope_freqs.weight`: the divisor of each rotary frequency (llama-3 scaling).
    pub(super) rope_freqs: Option<Vec<f32>>,
    /// `rope_factors_short.weight` and `rope_factors_long.weight` (phi-3 scaling).
    pub(super) rope_factors: Option<(Vec<f32>, Vec<f32>)>,
}

/// Number of attention heads and of key-value heads.
pub(super) fn heads(metadata: &Metadata) -> Result<(usize, usize)> {
    let heads = metadata.size("attention.head_count")?;
    let kv_heads = metadata.optional_size("attention.head_count_kv")?.unwrap_or(heads);
    Ok((heads, kv_heads))
}

/// The config in the keys that checkpoints on the Hub have.
pub(super) fn synthesize(metadata: &Metadata, architecture: &Architecture, facts: &Facts) -> Result<Value> {
    let name = architecture.name;
    let hidden = metadata.size("embedding_length")?;
    let layers = metadata.size("block_count")?;
    let (heads, kv_heads) = heads(metadata)?;
    // Only llama and its kin state the head's size as the rotary size; phi3 may rotate a part of the head.
    let rotary = metadata.optional_size("rope.dimension_count")?;
    let head_dim = match metadata.optional_size("attention.key_length")? {
        Some(size) => size,
        None => rotary.filter(|_| matches!(name, "llama" | "mistral" | "smollm3")).unwrap_or(hidden / heads),
    };
    if let Some(rotary) = rotary.filter(|rotary| name != "phi3" && *rotary != head_dim) {
        let problem = format!("it rotates {rotary} of a head's {head_dim} elements, which {name} does not do here");
        return Err(WeightsError::unsupported(metadata.path(), problem));
    }
    let context = metadata.size("context_length")?;
    let theta = metadata.optional_float("rope.freq_base")?.unwrap_or(10_000.0);

    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("architectures", json!([architecture.class]));
    set("model_type", json!(architecture.model_type));
    match name {
        "gemma3" => set("hidden_activation", json!("gelu_pytorch_tanh")),
        _ => set("hidden_act", json!("silu")),
    };
    set("hidden_size", json!(hidden));
    let experts = matches!(architecture.model_type, "mixtral" | "qwen3_moe");
    let inner = metadata.optional_size("expert_feed_forward_length")?.filter(|_| experts);
    let of_mlp = metadata.optional_count("feed_forward_length")?;
    let of_mlp = of_mlp.or(inner).ok_or_else(|| metadata.missing(&metadata.architecture_key("feed_forward_length")))?;
    set("intermediate_size", json!(of_mlp));
    if experts {
        set("num_local_experts", json!(metadata.size("expert_count")?));
        set("num_experts_per_tok", json!(metadata.size("expert_used_count")?));
    }
    if architecture.model_type == "qwen3_moe" {
        set("moe_intermediate_size", json!(inner.unwrap_or(of_mlp)));
        // llama.cpp has both in its code.
        set("norm_topk_prob", json!(true));
        set("decoder_sparse_step", json!(1));
    }
    set("num_hidden_layers", json!(layers));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(kv_heads));
    set("head_dim", json!(head_dim));
    set("rms_norm_eps", json!(metadata.float("attention.layer_norm_rms_epsilon")?));
    set("rope_theta", json!(theta));
    if let Some(scaling) = rope_scaling(metadata, facts, theta, head_dim, context)? {
        set("rope_scaling", scaling);
    }
    set("max_position_embeddings", json!(context));
    set("vocab_size", json!(facts.vocab_size));
    set("tie_word_embeddings", json!(facts.tied));
    match name {
        "llama" | "smollm3" if !experts => {
            set("attention_bias", json!(facts.attention_bias));
            set("mlp_bias", json!(facts.mlp_bias));
            if name == "smollm3" {
                // llama.cpp has this number in its code.
                set("no_rope_layer_interval", json!(4));
            }
        }
        "qwen2vl" => {
            let key = metadata.architecture_key("rope.dimension_sections");
            let sections = metadata.integers(&key).ok_or_else(|| metadata.missing(&key))?;
            let sections = sections.get(..3).ok_or_else(|| metadata.missing(&key))?;
            set("rope_scaling", json!({ "type": "mrope", "mrope_section": sections }));
            let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap_or_default();
            if let Some(id) = tokens.iter().position(|token| token == "<|image_pad|>") {
                set("image_token_id", json!(id));
            }
        }
        "mistral" => {
            set("sliding_window", json!(metadata.optional_count("attention.sliding_window")?));
        }
        "phi3" => {
            set("sliding_window", json!(metadata.optional_count("attention.sliding_window")?));
            set("partial_rotary_factor", json!(rotary.map_or(1.0, |r| r as f64 / head_dim as f64)));
            if let Some(original) = metadata.optional_size("rope.scaling.original_context_length")? {
                set("original_max_position_embeddings", json!(original));
            }
        }
        "gemma3" => {
            // So it is in llama.cpp's code: the largest model alone divides by the hidden size of a head.
            const LARGEST: usize = 62;
            set("query_pre_attn_scalar", json!(if layers == LARGEST { hidden / heads } else { head_dim }));
            set("rope_local_base_freq", json!(metadata.optional_float("rope.freq_base_swa")?.unwrap_or(10_000.0)));
            let window = metadata.optional_count("attention.sliding_window")?;
            set("sliding_window", json!(window));
            let slides = |layer: &bool| if *layer { "sliding_attention" } else { "full_attention" };
            let layers = sliding_layers(metadata, layers)?;
            let types: Vec<&str> = layers.iter().map(|layer| slides(&(*layer && window.is_some()))).collect();
            set("layer_types", json!(types));
        }
        _ => {}
    }
    set("attention_dropout", json!(0.0));
    set("torch_dtype", json!(facts.torch_dtype));
    let token = |name: &str| metadata.integer(&format!("tokenizer.ggml.{name}_token_id"));
    for (key, name) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
        if let Some(id) = token(name) {
            set(key, json!(id));
        }
    }
    // The end of a text, of a turn and of a message; each ends what is generated, as in llama.cpp.
    let ends: BTreeSet<u32> = ["eos", "eot", "eom"].into_iter().filter_map(token).collect();
    if let Some(end) = ends.first() {
        set("eos_token_id", if ends.len() == 1 { json!(end) } else { json!(ends) });
    }
    Ok(Value::Object(config))
}

/// In which layers of a Gemma the window slides: all but every sixth where the file does not say.
fn sliding_layers(metadata: &Metadata, layers: usize) -> Result<Vec<bool>> {
    let key = metadata.architecture_key("attention.sliding_window_pattern");
    let every = |pattern: usize| (1..=layers).map(|layer| pattern == 0 || layer % pattern != 0).collect();
    match metadata.get(&key) {
        None => Ok(every(6)),
        Some(MetadataValue::Integer(pattern)) if usize::try_from(*pattern).is_ok() => Ok(every(*pattern as usize)),
        Some(MetadataValue::Integers(listed)) if listed.len() == layers => {
            Ok(listed.iter().map(|&on| on != 0).collect())
        }
        Some(_) => Err(metadata.missing(&key)),
    }
}

/// Keys of an architecture that say what the tensors say, or nothing of a forward pass.
const HARMLESS: [&str; 5] =
    ["attention.causal", "attention.value_length", "rope.scaling.finetuned", "tensor_data_layout", "vocab_size"];

/// Keys of an architecture that change the mathematics, and are nothing where they are 0 or false.
const OFF: [&str; 25] = [
    "attention.clamp_kqv",
    "attention.kv_lora_rank",
    "attention.max_alibi_bias",
    "attention.output_scale",
    "attention.q_lora_rank",
    "attention.scale",
    "attention.shared_kv_layers",
    "attention.sliding_window",
    "attention.temperature_length",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "expert_shared_count",
    "expert_used_count",
    "final_logit_softcapping",
    "full_attention_interval",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "logit_scale",
    "residual_scale",
    "rope.dimension_sections",
    "rope.scaling.yarn_log_multiplier",
    "swin_norm",
    "use_parallel_residual",
];

/// Keys of an architecture that change the mathematics, and are nothing where they are 1.
const UNIT: [&str; 4] =
    ["rope.scaling.alpha", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"];

/// Refuses keys of the architecture that nobody has read and that change the mathematics; others that are not known to be
/// harmless are named once in a warning.
pub(super) fn settle(metadata: &Metadata) -> Result<()> {
    let beginning = metadata.architecture_key("");
    let mut unknown = Vec::new();
    for key in metadata.left(&beginning) {
        let name = key.strip_prefix(&beginning).unwrap_or(key);
        let off = match metadata.get(key) {
            Some(MetadataValue::Integer(0) | MetadataValue::Bool(false)) => true,
            Some(MetadataValue::Float(value)) => *value == 0.0,
            _ => false,
        };
        let unit = matches!(metadata.get(key), Some(MetadataValue::Float(1.0)));
        match name {
            _ if HARMLESS.contains(&name) => {}
            _ if UNIT.contains(&name) && unit => {}
            _ if !UNIT.contains(&name) && off => {}
            _ if OFF.contains(&name) || UNIT.contains(&name) => {
                let problem = format!("its metadata has `{key}`, which its architecture does not have here");
                return Err(WeightsError::unsupported(metadata.path(), problem));
            }
            _ => unknown.push(key),
        }
    }
    if !unknown.is_empty() {
        let unknown = named(&unknown);
        warn_once(format!("{}: of its metadata {unknown} not known and not used", metadata.path().display()));
    }
    Ok(())
}

fn rope_scaling(
    metadata: &Metadata,
    facts: &Facts,
    theta: f64,
    head_dim: usize,
    context: usize,
) -> Result<Option<Value>> {
    if let Some(divisors) = &facts.rope_freqs {
        return llama3_scaling(metadata, divisors, theta, head_dim).map(Some);
    }
    if let Some((short, long)) = &facts.rope_factors {
        let mut scaling = json!({ "type": "longrope", "short_factor": short, "long_factor": long });
        if let Some(factor) = metadata.optional_float("rope.scaling.attn_factor")? {
            scaling["attention_factor"] = json!(factor);
        }
        return Ok(Some(scaling));
    }
    let kind = metadata.architecture_string("rope.scaling.type").unwrap_or("none");
    let factor = metadata.optional_float("rope.scaling.factor")?.unwrap_or(1.0);
    match kind {
        "none" => Ok(None),
        "linear" => Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
        "yarn" => {
            let original = metadata.optional_size("rope.scaling.original_context_length")?.unwrap_or(context);
            let mut scaling = json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            });
            for key in ["beta_fast", "beta_slow"] {
                if let Some(beta) = metadata.optional_float(&format!("rope.scaling.yarn_{key}"))? {
                    scaling[key] = json!(beta);
                }
            }
            Ok(Some(scaling))
        }
        other => Err(WeightsError::unsupported(
            metadata.path(),
            format!("its rotary embedding is scaled by {other}; none, linear, yarn and llama-3 scaling are known"),
        )),
    }
}

/// Finds the llama-3 parameters again from the frequency divisors that the converter computed from them.
///
/// The file does not keep the parameters. All models published with this scaling share low 1, high 4 and an original
/// context of 8192; the factor is the largest divisor. The result is checked against every divisor.
fn llama3_scaling(metadata: &Metadata, divisors: &[f32], theta: f64, head_dim: usize) -> Result<Value> {
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let agrees = divisors.len() == head_dim / 2
        && divisors.iter().enumerate().all(|(i, &divisor)| {
            let wavelength = TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
            let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            let expected = 1.0 / ((1.0 - smooth) / factor + smooth);
            (f64::from(divisor) - expected).abs() < 1e-3 * expected
        });
    if !agrees {
        return Err(WeightsError::unsupported(
            metadata.path(),
            "its rope_freqs.weight is not llama-3 scaling with the published parameters; use the safetensors weights",
        ));
    }
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": original as u64,
    }))
}
