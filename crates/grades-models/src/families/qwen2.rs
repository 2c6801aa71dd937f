//! Qwen 2 and 2.5 (transformers `Qwen2ForCausalLM`): the layers of llama with biases on q, k and v.

use super::llama::{attention, mlp};
use super::wiring::{decoder, heads, norm};
use crate::Error;
use crate::config::{HfConfig, Sizes};
use crate::model::Wiring;
use crate::nn::Layer;
use crate::source::Builder;

pub(crate) fn build(config: &HfConfig, sizes: &Sizes, builder: &mut Builder<'_>) -> Result<Wiring, Error> {
    if config.flag("use_sliding_window") {
        return Err(Error::config("asks for `use_sliding_window`, which is not supported for qwen2; set it to false"));
    }
    let (heads, activation) = (heads(config, sizes)?, config.activation()?);
    decoder(builder, sizes, |builder, index, prefix| {
        Ok(Layer {
            attention_norm: norm(builder, sizes, index, &format!("{prefix}input_layernorm.weight"))?,
            attention: attention(builder, sizes, index, prefix, [true, false], heads.clone())?,
            mlp_norm: norm(builder, sizes, index, &format!("{prefix}post_attention_layernorm.weight"))?,
            mlp: mlp(builder, sizes, index, prefix, false, activation)?,
        })
    })
}
