//! Qwen 3 with experts (transformers `Qwen3MoeForCausalLM`): the layers of qwen3, most or all of them with experts in the place
//! of the MLP.

use super::experts::{Mixture, counts};
use super::llama::{attention, mlp};
use super::qwen2::full_attention;
use super::wiring::{LoadLayer, heads, norm, norm_of};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Attention, Layer};

/// What transformers takes where a config leaves it out: how many experts there are and how many a token has, and the width
/// inside one.
const EXPERTS: [usize; 2] = [128, 8];
const INNER: usize = 768;

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    full_attention(config)?;
    let (heads, activation, bias) =
        (heads(config, sizes, Rotated::Whole)?, config::activation(config)?, config.flag("attention_bias")?);
    let [experts, top_k] = counts(config, sizes, EXPERTS)?;
    let inner = config::size(config, "moe_intermediate_size", INNER, config::WIDEST)?;
    let names = ("mlp", ["gate_proj", "up_proj", "down_proj"]);
    let normalise = config.flag("norm_topk_prob")?;
    let mixture = Mixture { names, experts, top_k, normalise, inner, activation };
    let sparse = sparse_layers(config, sizes.num_hidden_layers, experts)?;
    let sizes = sizes.clone();
    Ok(Box::new(move |builder, index, prefix| {
        let attention_norm = norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?;
        let attention = attention(builder, &sizes, index, prefix, [bias, bias], heads.clone())?;
        let mut of_heads =
            |name| norm_of(builder, &sizes, sizes.head_dim, index, &format!("{prefix}self_attn.{name}.weight"));
        let head_norms = Some([of_heads("q_norm")?, of_heads("k_norm")?]);
        Ok(Layer {
            attention_norm,
            attention: Attention { head_norms, ..attention },
            mlp_norm: norm(builder, &sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: match sparse[index] {
                true => mixture.load(builder, &sizes, index, prefix)?,
                false => mlp(builder, &sizes, index, prefix, false, activation)?,
            },
            out: None,
        })
    }))
}

/// Which layers have experts: every `decoder_sparse_step`-th but those in `mlp_only_layers`.
fn sparse_layers(config: &Fields<'_>, layers: usize, experts: usize) -> Result<Vec<bool>, Error> {
    let step = config.optional("decoder_sparse_step")?.unwrap_or(1);
    let dense: Vec<usize> = config.optional("mlp_only_layers")?.unwrap_or_default();
    match step {
        0 => Err(Error::config("has `decoder_sparse_step: 0`; it must be at least 1")),
        step => Ok((0..layers).map(|i| experts > 0 && (i + 1) % step == 0 && !dense.contains(&i)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::HfConfig;

    fn sparse(config: &Value, experts: usize) -> Result<Vec<bool>, String> {
        let read = |config: &Fields<'_>| sparse_layers(config, 4, experts);
        HfConfig::new(config.clone()).unwrap().read(read).map_err(|error| error.to_string())
    }

    #[test]
    fn layers_have_experts_as_the_config_says() {
        for (config, expected) in [
            (json!({}), [true; 4]),
            (json!({ "decoder_sparse_step": 2 }), [false, true, false, true]),
            (json!({ "decoder_sparse_step": 2, "mlp_only_layers": [1, 7] }), [false, false, false, true]),
            (json!({ "mlp_only_layers": null }), [true; 4]),
        ] {
            assert_eq!(sparse(&config, 8).as_deref(), Ok(expected.as_slice()), "{config}");
            assert_eq!(sparse(&config, 0).as_deref(), Ok([false; 4].as_slice()), "{config}");
        }
        assert!(sparse(&json!({ "decoder_sparse_step": 0 }), 8).unwrap_err().contains("`decoder_sparse_step: 0`"));
    }
}
