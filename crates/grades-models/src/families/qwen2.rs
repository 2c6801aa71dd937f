//! Qwen 2 and 2.5 (transformers `Qwen2ForCausalLM`): llama with biases on q, k and v.

use crate::Error;
use crate::config::HfConfig;
use crate::nn::DecoderConfig;

pub(crate) fn decoder(config: &HfConfig) -> Result<DecoderConfig, Error> {
    if config.flag("use_sliding_window") {
        return Err(Error::config("asks for `use_sliding_window`, which is not supported for qwen2; set it to false"));
    }
    Ok(DecoderConfig { qkv_bias: true, ..config.decoder()? })
}
