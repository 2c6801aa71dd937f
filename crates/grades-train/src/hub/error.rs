//! Why something of the Hub cannot be had.

use std::io;
use std::path::{Path, PathBuf};

/// Why something of the Hub cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither here nor there.
    #[error(
        "{id}: there is no such file or folder here, and no public {what} {page}; correct the name, or set HF_TOKEN if the \
         {what} is private"
    )]
    NotThere {
        /// The name as given.
        id: String,
        /// Where it would be.
        page: String,
        /// Of what kind.
        what: &'static str,
    },
    /// No such branch, tag or commit.
    #[error("{page}: the {what} has no revision `{revision}`; give a branch, a tag or a commit of it")]
    NoRevision {
        /// Where it is.
        page: String,
        /// Of what kind.
        what: &'static str,
        /// The revision as given.
        revision: String,
    },
    /// Shown to those alone who have agreed to something.
    #[error("{page}: access to the {what} is restricted; ask for it on that page, and set HF_TOKEN to your token")]
    Gated {
        /// Where it is.
        page: String,
        /// Of what kind.
        what: &'static str,
    },
    /// A model in other formats.
    #[error("{page}: the model has no model.safetensors and no GGUF file; convert it first")]
    NoWeights {
        /// Where it is.
        page: String,
    },
    /// Of several GGUF files none, or several, are meant.
    #[error("{page}: the model has {}; name one, as in {id}:{}", listed(files), files.first().map_or("Q4_K_M", |file| file))]
    Choose {
        /// Where it is.
        page: String,
        /// Its name.
        id: String,
        /// What may be named.
        files: Vec<String>,
    },
    /// A GGUF file that is not there.
    #[error("{page}: the model has no GGUF file `{choice}`; it has {}", listed(files))]
    NoFile {
        /// Where it is.
        page: String,
        /// What was named.
        choice: String,
        /// What may be named.
        files: Vec<String>,
    },
    /// The token is none.
    #[error("{page}: the Hub does not know the token; set HF_TOKEN to a valid one, or unset it for what is public")]
    Token {
        /// Where it is.
        page: String,
    },
    /// Any other refusal.
    #[error("{url}: the Hub answered {status} {message}; try again later")]
    Refused {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the Hub said to it.
        message: String,
    },
    /// The network failed.
    #[error(
        "{id}: there is no such file or folder here, and fetching {url} failed ({reason}); check the connection and call again"
    )]
    Network {
        /// The data set or model.
        id: String,
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// Nothing may be fetched.
    #[error(
        "{what}: there is no such file or folder here, and it is not in the cache {}; unset HF_HUB_OFFLINE (and \
         TRANSFORMERS_OFFLINE, HF_DATASETS_OFFLINE) to fetch it from the Hugging Face Hub",
        cache.display()
    )]
    Offline {
        /// The data set or model, or a file of it.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The cache cannot be written.
    #[error("{}: the cache cannot be written there ({source}); set HF_HUB_CACHE to another folder", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The GGUF files by what names them.
fn listed(files: &[String]) -> String {
    match files {
        [] => "no GGUF file".to_owned(),
        [file] => format!("the GGUF file {file}"),
        files => format!("the GGUF files {}", files.join(", ")),
    }
}

impl HubError {
    /// Whether it may be otherwise later: the Hub cannot be reached, or does not answer as it should.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::Refused { status: 429 | 500.., .. })
    }

    pub(super) fn cache(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Cache { path, source }
    }
}
