//! Qwen 2 and 2.5 (transformers `Qwen2ForCausalLM`): the layers of llama with biases on q, k and v.

use grades_tensor::Activation;

use super::llama::{attention, mlp};
use super::wiring::{LoadLayer, heads, norm};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Heads, Layer};

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    full_attention(config)?;
    config.only("qkv_bias", &[true.into()])?;
    Ok(layer(sizes, heads(config, sizes, Rotated::Whole)?, config::activation(config)?))
}

/// How a layer with these heads is loaded.
pub(super) fn layer(sizes: &Sizes, heads: Heads, activation: Activation) -> Box<LoadLayer> {
    let sizes = sizes.clone();
    Box::new(move |builder, index, prefix| {
        Ok(Layer {
            attention_norm: norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: attention(builder, &sizes, index, prefix, [true, false], heads.clone())?,
            mlp_norm: norm(builder, &sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: mlp(builder, &sizes, index, prefix, false, activation)?,
            out: None,
        })
    })
}

/// Refuses windows that slide; what else is said of them then means nothing.
pub(super) fn full_attention(config: &Fields<'_>) -> Result<(), Error> {
    config.harmless(&["sliding_window", "max_window_layers"]);
    Ok(config.only("use_sliding_window", &[false.into()])?)
}
