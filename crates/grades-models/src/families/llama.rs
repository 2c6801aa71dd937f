//! Llama 1–3, SmolLM, SmolLM2 and their kin (transformers `LlamaForCausalLM`).

use crate::Error;
use crate::config::HfConfig;
use crate::nn::DecoderConfig;

pub(crate) fn decoder(config: &HfConfig) -> Result<DecoderConfig, Error> {
    let bias = config.flag("attention_bias");
    Ok(DecoderConfig { qkv_bias: bias, o_bias: bias, mlp_bias: config.flag("mlp_bias"), ..config.decoder()? })
}
