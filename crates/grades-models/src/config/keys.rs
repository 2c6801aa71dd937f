//! The keys of a `config.json` that no architecture here reads, and what of them is known.

use serde_json::{Value, json};

use crate::Error;
use crate::fields::{Fields, warn_once};

/// Keys that change no number of a forward pass: the bookkeeping of programs, and what generation, tokenizers and training say
/// elsewhere.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "compression_config",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_max_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_nextn_predict_layers",
    "num_return_sequences",
    "original_max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "quantization_config",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention",
    "use_flash_attn",
    "use_reentrant",
    "use_return_dict",
    "z_loss",
];

/// Dropout, which would change training alone.
const DROPOUT: &[&str] = &["attention_dropout", "attn_pdrop", "embd_pdrop", "hidden_dropout", "resid_pdrop"];

/// What other architectures have, and must be off.
const OFF: &[&str] = &[
    "add_cross_attention",
    "alibi",
    "attention_bias",
    "attention_chunk_size",
    "attention_multiplier",
    "attention_out_bias",
    "attn_logit_softcapping",
    "attn_output_gate",
    "attn_temperature_tuning",
    "bias",
    "clip_qkv",
    "cross_attention_hidden_size",
    "dim_model_base",
    "final_logit_softcapping",
    "first_k_dense_replace",
    "full_attention_interval",
    "is_encoder_decoder",
    "kv_lora_rank",
    "lm_head_bias",
    "logit_softcapping",
    "mlp_bias",
    "n_routed_experts",
    "n_shared_experts",
    "no_rope_layer_interval",
    "nope_layer_interval",
    "num_experts",
    "num_local_experts",
    "parallel_attn",
    "parallel_residual",
    "q_lora_rank",
    "qk_layernorm",
    "qk_norm",
    "qkv_bias",
    "qkv_clip",
    "query_pre_attn_scalar",
    "rope_interleave",
    "rope_interleaved",
    "scale_depth",
    "sliding_window",
    "sliding_window_pattern",
    "tie_encoder_decoder",
    "use_alibi",
    "use_bias",
    "use_mrope",
    "use_parallel_residual",
    "use_qk_layernorm",
    "use_qk_norm",
    "use_sliding_window",
];

/// Factors of what passes through a model.
const FACTORS: &[&str] = &[
    "attention_in_multiplier",
    "attention_out_multiplier",
    "embedding_multiplier",
    "full_attn_mod",
    "interpolate_factor",
    "key_multiplier",
    "lm_head_multiplier",
    "logit_scale",
    "logits_scaling",
    "residual_multiplier",
    "rotary_pct",
    "scale_emb",
    "value_multiplier",
];

/// Refuses keys that the architecture has not read and that would change the mathematics, and passes those known to be
/// harmless.
///
/// # Errors
/// A key asks for what does not exist here.
pub(super) fn settle(config: &Fields<'_>) -> Result<(), Error> {
    let left = config.left();
    let settle = |keys: &[&str], plain: &[Value]| {
        let mut unread = keys.iter().filter(|key| left.iter().any(|left| left == *key));
        unread.try_for_each(|key| config.only(key, plain))
    };
    config.harmless(HARMLESS);
    settle(OFF, &[false.into(), 0.into()])?;
    settle(FACTORS, &[1.into()])?;
    settle(&["no_rope_layers"], &[1.into(), true.into()])?;
    settle(&["layer_types"], &["full_attention".into()])?;
    settle(&["pruned_heads"], &[json!({})])?;
    settle(&["position_embedding_type"], &["rope".into(), "rotary".into()])?;
    for key in DROPOUT {
        let rate = config.get(key).filter(|rate| rate.as_f64() != Some(0.0));
        if let Some(rate) = rate {
            warn_once(format!("config.json of the model: training goes without `{key}: {rate}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HfConfig;

    fn read(config: Value) -> Result<(), String> {
        let read = |config: &Fields<'_>| {
            config.harmless(&["known"]);
            Ok(())
        };
        HfConfig::new(config).unwrap().read(read).map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_change_the_mathematics_is_refused() {
        for (key, value) in [
            ("attn_logit_softcapping", json!(50.0)),
            ("attention_bias", json!(true)),
            ("sliding_window", json!(512)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("no_rope_layers", json!([1, 0, 1])),
            ("residual_multiplier", json!(0.22)),
            ("use_qk_norm", json!(true)),
            ("num_local_experts", json!(8)),
            ("pruned_heads", json!({ "0": [1] })),
            ("position_embedding_type", json!("alibi")),
        ] {
            let error = read(json!({ "known": 3, key: value })).unwrap_err();
            assert!(error.contains(&format!("`{key}: ")), "{error}");
        }
    }

    #[test]
    fn what_is_off_or_harmless_passes() {
        read(json!({
            "known": 3, "attn_logit_softcapping": null, "attention_bias": false, "sliding_window": null, "num_experts": 0,
            "layer_types": ["full_attention", "full_attention"], "no_rope_layers": [1, 1], "residual_multiplier": 1.0,
            "pruned_heads": {}, "pretraining_tp": 1, "torch_dtype": "bfloat16", "attention_dropout": 0.1, "own_key": [1],
        }))
        .unwrap();
    }
}
