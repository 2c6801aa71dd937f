//! Why something cannot be brought to the Hub.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use ureq::Body;
use ureq::http::Response;

/// Why something cannot be brought to the Hub. No message holds a token or a signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// Not the name of a model.
    #[error("`{id}` is no name on the Hugging Face Hub; give owner/name")]
    Name {
        /// The name as given.
        id: String,
    },
    /// Nothing may be sent.
    #[error("HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, and an upload needs the Hugging Face Hub; unset it")]
    Offline,
    /// There is no token.
    #[error(
        "an upload to the Hugging Face Hub needs a token that may write; set HF_TOKEN to one, or log in with `hf auth login`"
    )]
    NoToken,
    /// The token is none.
    #[error("{page}: the Hub does not know the token; set HF_TOKEN to a valid one that may write")]
    Token {
        /// Where it was to go.
        page: String,
    },
    /// The token may not do this.
    #[error(
        "{page}: the token may not write there{}; use one with that right, or upload to a name of your own",
        behind(message)
    )]
    Forbidden {
        /// Where it was to go.
        page: String,
        /// What the Hub said.
        message: String,
    },
    /// There is no such repository.
    #[error("{page}: the Hub knows no such model, or not with this token; correct the name, or use another token")]
    NotThere {
        /// Where it was to go.
        page: String,
    },
    /// There is no such branch.
    #[error("{page}: the model has no such revision; give a branch, or refs/pr/N of a pull request that is open")]
    NoRevision {
        /// Where it was to go.
        page: String,
    },
    /// What was to be made is there, or something else is being done.
    #[error("{page}: the Hub is busy with the model{}; call again", behind(message))]
    Conflict {
        /// Where it was to go.
        page: String,
        /// What the Hub said.
        message: String,
    },
    /// Somebody else committed meanwhile.
    #[error("{page}: others change the model at the same time; call again, what was sent is not sent twice")]
    Changed {
        /// Where it was to go.
        page: String,
    },
    /// Too many requests.
    #[error(
        "{page}: the Hub takes no more requests for now; call again in a few minutes, what was sent is not sent twice"
    )]
    TooMany {
        /// Where it was to go.
        page: String,
        /// How long it asks to wait.
        pause: Option<Duration>,
    },
    /// Any other refusal.
    #[error("{url}: the Hub answered {status}{}; correct what it names, or call again later", behind(message))]
    Refused {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the Hub said.
        message: String,
    },
    /// The store of large files refuses a piece of one, perhaps as its place was good for some time only.
    #[error("{url}: the store of large files answered {status}; call again, what was sent is not sent twice")]
    StoreRefused {
        /// Where it was sent.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The Hub does not want a large file.
    #[error("{file}: the Hub does not take it: {problem}")]
    Store {
        /// The file, within its folder.
        file: String,
        /// What the Hub said.
        problem: String,
    },
    /// The network failed.
    #[error("{url}: the connection failed ({reason}); call again, what was sent is not sent twice")]
    Network {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// An answer that is none.
    #[error("{page}: the Hub's answer is not understood: {problem}; call again later")]
    Unclear {
        /// What it was about.
        page: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to send.
    #[error("{}: there is no file to upload", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A name that the Hub cannot have.
    #[error("{}: the name is not Unicode, which names on the Hub must be; rename it", path.display())]
    NotUnicode {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{}: it cannot be read ({source})", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl UploadError {
    /// What an answer of the Hub that is no success means.
    pub(super) fn of_hub(mut answer: Response<Body>, url: &str, page: &str, token: Option<&str>) -> Self {
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let code = header("X-Error-Code").unwrap_or_default();
        let pause = header("Retry-After").and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        let said = header("X-Error-Message").or_else(|| {
            let text = answer.body_mut().with_config().limit(1 << 16).read_to_string().ok()?;
            let told: Value = serde_json::from_str(&text).ok()?;
            told["error"].as_str().map(str::to_owned)
        });
        let (page, message) = (page.to_owned(), in_a_line(&said.unwrap_or_default(), token));
        match (status, code.as_str()) {
            (_, "RevisionNotFound") => Self::NoRevision { page },
            (401, _) => Self::Token { page },
            (402 | 403, _) => Self::Forbidden { page, message },
            (_, "RepoNotFound") | (404, _) => Self::NotThere { page },
            (409, _) => Self::Conflict { page, message },
            (412, _) => Self::Changed { page },
            (429, _) => Self::TooMany { page, pause },
            _ => Self::Refused { url: without_query(url), status, message },
        }
    }

    /// What an answer of the store that is no success means.
    pub(super) fn of_store(answer: &Response<Body>, url: &str) -> Self {
        Self::StoreRefused { url: without_query(url), status: answer.status().as_u16() }
    }

    pub(super) fn network(url: &str, reason: String) -> Self {
        Self::Network { url: without_query(url), reason }
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether it may be otherwise the next time.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } | Self::StoreRefused { status, .. } => matches!(status, 408 | 500..),
            Self::Network { .. } | Self::TooMany { .. } => true,
            _ => false,
        }
    }

    /// Whether another attempt, with what is then still missing, may succeed: others have committed, or the places in the store
    /// were good for some time only.
    pub(super) fn may_pass_anew(&self) -> bool {
        self.is_passing() || matches!(self, Self::Changed { .. } | Self::StoreRefused { status: 400 | 403, .. })
    }

    /// How long the Hub asks to wait.
    pub(super) fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::TooMany { pause, .. } => *pause,
            _ => None,
        }
    }
}

/// An address without what signs it.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

/// What somebody else wrote, in a line that is not too long and holds no token.
fn in_a_line(text: &str, token: Option<&str>) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = token.map_or(line.clone(), |token| line.replace(token, "…"));
    line.chars().take(300).collect()
}

/// What the Hub said, behind what that means.
fn behind(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({})", message.trim_end_matches('.')) }
}
