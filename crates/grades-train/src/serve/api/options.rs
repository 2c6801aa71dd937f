//! How texts are written: the fields that both ways of asking share.

use std::sync::Arc;

use grades_models::sampling::{Penalties, Sampler, SamplingOptions};
use serde_json::{Value, json};

use super::fields::Fields;
use crate::random;
use crate::serve::error::ApiError;

/// Most answers to a prompt.
const ANSWERS: usize = 128;
/// Most texts that may end an answer, and most bytes of one.
const STOPS: (usize, usize) = (16, 1_000);

/// How texts are written.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) struct Options {
    /// Answers to each prompt.
    pub(in crate::serve) n: usize,
    /// Texts that end one.
    pub(in crate::serve) stop: Vec<String>,
    /// Most tokens, if it says so, and the field that does.
    pub(in crate::serve) max_tokens: Option<(usize, &'static str)>,
    /// What is done to logits.
    pub(in crate::serve) penalties: Arc<Penalties>,
    /// Whether the text is sent as it is written.
    pub(in crate::serve) stream: bool,
    /// Whether what it took is sent at the end of that.
    pub(in crate::serve) include_usage: bool,
    sampling: SamplingOptions,
    seed: Option<u64>,
}

impl Options {
    /// Takes them from a request.
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let sampling = SamplingOptions {
            temperature: fields.number("temperature", 0.0..=100.0)?.unwrap_or(1.0),
            top_p: top_p(fields)?,
            top_k: top_k(fields)?,
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
            seed: 0,
        };
        let penalties = Penalties {
            repetition: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(1.0),
            frequency: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            presence: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            bias: bias(fields)?,
        };
        let stream = fields.flag("stream")?;
        let n = fields.count("n", 1..=ANSWERS)?.unwrap_or(1);
        if fields.count("best_of", 1..=usize::MAX)?.is_some_and(|best_of| best_of != n) {
            return Err(ApiError::unsupported("best_of", "give `n` alone"));
        }
        if fields.take("response_format").is_some_and(|format| format != json!({ "type": "text" })) {
            return Err(ApiError::unsupported("response_format", "ask for JSON in a message"));
        }
        if fields.take("modalities").is_some_and(|modalities| modalities != json!(["text"])) {
            return Err(ApiError::unsupported("modalities", "the model writes text alone"));
        }
        Ok(Self {
            n,
            stop: stop(fields)?,
            max_tokens: max_tokens(fields)?,
            penalties: Arc::new(penalties),
            stream,
            include_usage: include_usage(fields, stream)?,
            sampling,
            seed: seed(fields)?,
        })
    }

    /// What draws the tokens of a request's answer `index`.
    ///
    /// # Errors
    /// An option is out of its range.
    pub(in crate::serve) fn sampler(&self, index: usize) -> Result<Sampler, ApiError> {
        let seed = self.seed.map_or_else(random::number, |seed| seed.wrapping_add(index as u64));
        Sampler::new(SamplingOptions { seed, ..self.sampling })
            .map_err(|error| ApiError::new(400, "invalid_value", error.to_string()))
    }
}

fn top_p(fields: &mut Fields) -> Result<f32, ApiError> {
    match fields.number("top_p", 0.0..=1.0)? {
        Some(0.0) => {
            Err(ApiError::field("top_p", "must be above 0; `temperature: 0` takes the likeliest token always"))
        }
        top_p => Ok(top_p.unwrap_or(1.0)),
    }
}

fn top_k(fields: &mut Fields) -> Result<usize, ApiError> {
    // −1 is what vLLM calls all.
    match fields.take("top_k") {
        None => Ok(0),
        Some(value) if value.as_i64() == Some(-1) => Ok(0),
        Some(value) => {
            let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
            count.ok_or_else(|| ApiError::field("top_k", "must be a whole number, at least 0; 0 or -1 for all"))
        }
    }
}

fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    let seed = value.as_i64().map(|seed| seed as u64).or_else(|| value.as_u64());
    seed.map(Some).ok_or_else(|| ApiError::field("seed", "must be a whole number of 64 bits"))
}

fn max_tokens(fields: &mut Fields) -> Result<Option<(usize, &'static str)>, ApiError> {
    let old = fields.count("max_tokens", 0..=usize::MAX)?;
    let new = fields.count("max_completion_tokens", 0..=usize::MAX)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            Err(ApiError::field("max_tokens", "and `max_completion_tokens` say two things; give one of them"))
        }
        (_, Some(new)) => Ok(Some((new, "max_completion_tokens"))),
        (old, None) => Ok(old.map(|old| (old, "max_tokens"))),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let (most, bytes) = STOPS;
    let wrong =
        || ApiError::field("stop", format_args!("must be a text, or at most {most} of 1 to {bytes} bytes each"));
    let stops = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) => {
            let text = |stop| if let Value::String(stop) = stop { Some(stop) } else { None };
            stops.into_iter().map(text).collect::<Option<Vec<_>>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    let fits = stops.len() <= most && stops.iter().all(|stop| (1..=bytes).contains(&stop.len()));
    if fits { Ok(stops) } else { Err(wrong()) }
}

fn bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let wrong = || ApiError::field("logit_bias", "must be an object that gives tokens' ids numbers from -100 to 100");
    let of_token = |(id, bias): (String, Value)| {
        let bias = bias.as_f64().map(|bias| bias as f32).filter(|bias| bias.abs() <= 100.0)?;
        Some((id.parse().ok()?, bias))
    };
    match fields.take("logit_bias") {
        None => Ok(Vec::new()),
        Some(Value::Object(bias)) => bias.into_iter().map(of_token).collect::<Option<_>>().ok_or_else(wrong),
        Some(_) => Err(wrong()),
    }
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let wrong = || ApiError::field("stream_options", "must be an object with `include_usage: true` or `false`");
    match fields.take("stream_options") {
        None => Ok(false),
        Some(_) if !stream => Err(ApiError::field("stream_options", "is for `stream: true` alone")),
        Some(Value::Object(mut options)) => {
            let usage = options.shift_remove("include_usage").unwrap_or(Value::Bool(false));
            // A wish of newer clients, about padding against eavesdroppers.
            options.shift_remove("include_obfuscation");
            usage.as_bool().filter(|_| options.is_empty()).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}
