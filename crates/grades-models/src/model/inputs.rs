//! What a model reads.

use std::sync::Arc;

use grades_tensor::{Layout, Tensor};

/// A flat batch: tokens, and what takes the place of the embeddings of some of them.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Token ids, `[tokens]`.
    pub ids: Arc<Vec<u32>>,
    /// Samples and positions.
    pub layout: Arc<Layout>,
    /// Rows that are not embedded, such as those of a picture.
    pub replaced: Option<Replaced>,
}

impl Inputs {
    /// Tokens alone.
    #[must_use]
    pub fn tokens(ids: Arc<Vec<u32>>, layout: Arc<Layout>) -> Self {
        Self { ids, layout, replaced: None }
    }
}

/// Rows of the layers' input that do not come from the embedding.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The rows, `[replaced]`, each at most once.
    pub rows: Arc<Vec<u32>>,
    /// What stands there, f32 `[replaced, hidden]`.
    pub by: Tensor,
}

/// The output of a model's first layers for a batch.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// `[tokens, hidden]`.
    pub output: Tensor,
    /// How many layers it is the output of; 0 for the embedding's.
    pub layers: usize,
}
