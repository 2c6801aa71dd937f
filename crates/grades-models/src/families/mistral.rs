//! Mistral (transformers `MistralForCausalLM`): the layers of llama with a sliding window.

use super::llama::{attention, mlp};
use super::wiring::{LoadLayer, heads, norm};
use crate::Error;
use crate::config::{self, Rotated, Sizes};
use crate::fields::Fields;
use crate::nn::{Heads, Layer};

pub(crate) fn read(config: &Fields<'_>, sizes: &mut Sizes) -> Result<Box<LoadLayer>, Error> {
    let heads = Heads { window: config::sliding_window(config)?, ..heads(config, sizes, Rotated::Whole)? };
    let activation = config::activation(config)?;
    let sizes = sizes.clone();
    Ok(Box::new(move |builder, index, prefix| {
        Ok(Layer {
            attention_norm: norm(builder, &sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: attention(builder, &sizes, index, prefix, [false, false], heads.clone())?,
            mlp_norm: norm(builder, &sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: mlp(builder, &sizes, index, prefix, false, activation)?,
            out: None,
        })
    }))
}
