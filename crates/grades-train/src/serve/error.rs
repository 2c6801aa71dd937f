//! What a client is told when something fails, as OpenAI's API tells it.

use serde_json::{Value, json};

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// A sentence.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

impl ApiError {
    /// An error that is of no field.
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: Some(code) }
    }

    /// A field is wrong: `problem` says what about it.
    pub(super) fn field(name: &str, problem: impl std::fmt::Display) -> Self {
        Self { status: 400, message: format!("`{name}` {problem}"), param: Some(name.to_owned()), code: None }
    }

    /// A field is right in OpenAI's API, but changes what is asked for in a way that is not there.
    pub(super) fn unsupported(name: &str, way_out: &str) -> Self {
        let code = Some("unsupported_parameter");
        Self { code, ..Self::field(name, format_args!("is not supported; {way_out}")) }
    }

    /// The server has enough to do, or ends.
    pub(super) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(503, code, message)
    }

    /// As JSON.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            404 => "not_found_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}
