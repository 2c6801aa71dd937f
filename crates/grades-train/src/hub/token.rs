//! The token of the Hub: read where its own tools keep it, and never shown.

use std::fmt;
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

/// A token, which messages and dumps do not show.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    /// The token that is given, or that `hf auth login` has left at `stored`; none where both are empty.
    pub(super) fn found(given: Option<String>, stored: impl FnOnce() -> PathBuf) -> Option<Self> {
        given.or_else(|| fs::read_to_string(stored()).ok()).and_then(Self::of)
    }

    pub(super) fn of(text: String) -> Option<Self> {
        Some(Self(text.trim().to_owned())).filter(|token| !token.is_empty())
    }
}

impl Deref for Token {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
