//! Requests to `/v1/chat/completions`.

use super::fields::Fields;
use super::options::Options;
use super::{Asked, Kind, Prompt, messages};
use crate::serve::error::ApiError;

/// Most tokens beside the one that was written whose likelihoods are told.
const TOP_LOGPROBS: usize = 20;

/// The request in a body.
pub(super) fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let model = fields.text("model")?;
    let conversation = messages::take(&mut fields)?;
    let options = Options::take(&mut fields)?;
    if let Some((0, name)) = options.max_tokens {
        return Err(ApiError::field(name, "must be at least 1"));
    }
    let told = fields.flag("logprobs")?;
    let top = fields.count("top_logprobs", 0..=TOP_LOGPROBS)?;
    if top.is_some() && !told {
        return Err(ApiError::field("top_logprobs", "is for `logprobs: true` alone"));
    }
    fields.finish()?;
    Ok(Asked {
        kind: Kind::Chat,
        model,
        prompts: vec![Prompt::Conversation(Box::new(conversation))],
        options,
        logprobs: told.then(|| top.unwrap_or_default()),
        echo: false,
    })
}
