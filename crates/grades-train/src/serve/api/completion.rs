//! Requests to `/v1/completions`.

use serde_json::Value;

use super::fields::Fields;
use super::options::Options;
use super::{Asked, Kind, Prompt};
use crate::serve::error::ApiError;

/// Most prompts of a request.
const PROMPTS: usize = 1_024;
/// Most tokens whose likelihoods are told in the place of one; OpenAI allows 5, others more.
const LOGPROBS: usize = 20;
/// What is written where `max_tokens` does not say, as of OpenAI.
const MAX_TOKENS: usize = 16;

/// The request in a body.
pub(super) fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let model = fields.text("model")?;
    let prompts = prompts(fields.take("prompt"))?;
    let mut options = Options::take(&mut fields)?;
    options.max_tokens.get_or_insert((MAX_TOKENS, "max_tokens"));
    let logprobs = fields.count("logprobs", 0..=LOGPROBS)?;
    let echo = fields.flag("echo")?;
    if let (Some((0, name)), false) = (options.max_tokens, echo) {
        return Err(ApiError::field(name, "must be at least 1, unless `echo` is true"));
    }
    fields.finish()?;
    Ok(Asked { kind: Kind::Completion, model, prompts, options, logprobs, echo })
}

/// A text, tokens, or a list of either.
fn prompts(prompt: Option<Value>) -> Result<Vec<Prompt>, ApiError> {
    let wrong = || {
        ApiError::field(
            "prompt",
            format_args!("must be a text, a list of tokens, or a list of 1 to {PROMPTS} of either"),
        )
    };
    let one = |value: &Value| -> Option<Prompt> {
        match value {
            Value::String(text) => Some(Prompt::Text(text.clone())),
            Value::Array(ids) => {
                let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
                ids.iter().map(id).collect::<Option<Vec<_>>>().filter(|ids| !ids.is_empty()).map(Prompt::Tokens)
            }
            _ => None,
        }
    };
    let value = prompt.ok_or_else(wrong)?;
    if let Some(prompt) = one(&value) {
        return Ok(vec![prompt]);
    }
    let list = value.as_array().filter(|list| (1..=PROMPTS).contains(&list.len())).ok_or_else(wrong)?;
    list.iter().map(one).collect::<Option<_>>().ok_or_else(wrong)
}
