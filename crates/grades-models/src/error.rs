//! What can go wrong with a model.

/// An error of this crate; its message is one sentence that names the file or key and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint's config lacks a key or holds an impossible value.
    #[error("the model config {what}")]
    Config {
        /// What is wrong, naming the key.
        what: String,
    },
    /// A key of the checkpoint's config asks for something that is not supported, or has the wrong type.
    #[error("config.json of the model: {0}")]
    Field(#[from] crate::fields::FieldsError),
    /// The architecture is not one of the registry's.
    #[error("the model type `{found}` is not supported; supported are {known}")]
    Family {
        /// The checkpoint's `model_type`.
        found: String,
        /// The registry's, comma separated.
        known: String,
    },
    /// A tensor that the architecture needs has another shape in the checkpoint.
    #[error(
        "tensor `{name}` has shape {found:?} where the config asks for {expected:?}; config and weights are not of one model"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the checkpoint.
        found: Vec<usize>,
        /// Its shape by the config.
        expected: Vec<usize>,
    },
    /// A prompt or sample that the model cannot take.
    #[error("{0}")]
    Input(String),
    /// A tensor could not be moved between the device and the host.
    #[error("the values of `{name}` could not be read from the device: {reason}")]
    Device {
        /// The tensor.
        name: String,
        /// The backend's message.
        reason: String,
    },
    /// The next token could not be drawn.
    #[error(transparent)]
    Sampling(#[from] crate::sampling::SamplingError),
    /// The checkpoint's files.
    #[error(transparent)]
    Weights(#[from] crate::weights::WeightsError),
}

impl Error {
    pub(crate) fn config(what: impl Into<String>) -> Self {
        Self::Config { what: what.into() }
    }
}
