//! Mistral (transformers `MistralForCausalLM`): the layers of llama with a sliding window.

use super::llama::{attention, mlp};
use super::wiring::{decoder, heads, norm};
use crate::Error;
use crate::config::{HfConfig, Sizes};
use crate::model::Wiring;
use crate::nn::{Heads, Layer};
use crate::source::Builder;

pub(crate) fn build(config: &HfConfig, sizes: &Sizes, builder: &mut Builder<'_>) -> Result<Wiring, Error> {
    let heads = Heads { window: config.optional("sliding_window")?, ..heads(config, sizes)? };
    let activation = config.activation()?;
    decoder(builder, sizes, |builder, index, prefix| {
        Ok(Layer {
            attention_norm: norm(builder, sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: attention(builder, sizes, index, prefix, [false, false], heads.clone())?,
            mlp_norm: norm(builder, sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: mlp(builder, sizes, index, prefix, false, activation)?,
        })
    })
}
