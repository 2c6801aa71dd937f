//! The fields of a request's JSON object: each is taken once, and what nobody has taken is told.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::serve::error::ApiError;

/// Fields that change nothing here: notes of the client, and wishes about cost.
const WITHOUT_MEANING: [&str; 9] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "prediction",
];

/// Fields of the API that are not there, with what to do instead.
const MISSING: [(&str, &str); 7] = [
    ("functions", "give `tools`"),
    ("function_call", "give `tools`"),
    ("reasoning_effort", "give the template's variable in `chat_template_kwargs`"),
    ("verbosity", "ask for it in a message"),
    ("web_search_options", "leave it out"),
    ("audio", "leave it out"),
    ("suffix", "leave it out"),
];

/// What is left of a request's fields.
#[derive(Clone, Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Those of a body.
    ///
    /// # Errors
    /// It is no JSON object.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::new(400, "malformed_json", "the body is not a JSON object")),
            Err(error) => Err(ApiError::new(400, "malformed_json", format!("the body is not valid JSON ({error})"))),
        }
    }

    /// Takes a field; one that is `null` is not there.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Takes yes or no, which is no where it is left out.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(ApiError::field(name, "must be true or false")),
        }
    }

    /// Takes a whole number.
    pub(super) fn count(&mut self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| range.contains(count));
        let wrong = || {
            let most = *range.end();
            let most = if most == usize::MAX { String::new() } else { format!(", at most {most}") };
            ApiError::field(name, format_args!("must be a whole number, at least {}{most}", range.start()))
        };
        count.map(Some).ok_or_else(wrong)
    }

    /// Takes a number.
    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32).filter(|number| range.contains(number));
        let wrong =
            || ApiError::field(name, format_args!("must be a number from {} to {}", range.start(), range.end()));
        number.map(Some).ok_or_else(wrong)
    }

    /// Takes a text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::field(name, "must be a text")),
        }
    }

    /// Refuses what is left, unless it changes nothing.
    ///
    /// # Errors
    /// A field is not known, or not supported.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        for name in WITHOUT_MEANING {
            self.take(name);
        }
        for (name, way_out) in MISSING {
            if self.take(name).is_some() {
                return Err(ApiError::unsupported(name, way_out));
            }
        }
        match self.0.into_iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(ApiError::field(&name, "is not known here; leave it out")),
            None => Ok(()),
        }
    }
}
