//! Mistral (transformers `MistralForCausalLM`): llama with a sliding window.

use crate::Error;
use crate::config::HfConfig;
use crate::nn::DecoderConfig;

pub(crate) fn decoder(config: &HfConfig) -> Result<DecoderConfig, Error> {
    Ok(DecoderConfig { sliding_window: config.optional("sliding_window")?, ..config.decoder()? })
}
