//! Qwen 3 (transformers `Qwen3ForCausalLM`): the layers of llama with a norm of each head of q and k, and a head size of its
//! own.

use super::llama::{attention, mlp};
use super::qwen2::full_attention;
use super::wiring::{LoadLayer, heads, norm, norm_of};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Attention, Layer};

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    full_attention(config)?;
    // Other families divide the hidden size by the heads where it is left out; transformers takes 128 for this one.
    if config.optional::<usize>("head_dim")?.is_none() {
        return Err(Error::config("lacks `head_dim`; check config.json"));
    }
    let (heads, activation, bias) =
        (heads(config, sizes, Rotated::Whole)?, config::activation(config)?, config.flag("attention_bias")?);
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
            mlp: mlp(builder, &sizes, index, prefix, false, activation)?,
            out: None,
        })
    }))
}
