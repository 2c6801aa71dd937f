//! What a model reads.

use std::sync::Arc;

use grades_tensor::{Layout, Tensor};

use super::vision::Pictures;

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

/// Rows of the layers' input that do not come from the embedding.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The rows, `[replaced]`, each at most once.
    pub rows: Arc<Vec<u32>>,
    /// What stands there.
    pub by: Rows,
}

/// What stands in the place of embeddings, `[replaced, hidden]`.
#[derive(Clone, Debug)]
pub enum Rows {
    /// Rows that are known, in f32.
    Known(Tensor),
    /// Those that the model makes of pictures.
    Of(Arc<Pictures>),
}

impl Inputs {
    /// Tokens alone.
    #[must_use]
    pub fn tokens(ids: Arc<Vec<u32>>, layout: Arc<Layout>) -> Self {
        Self { ids, layout, replaced: None }
    }

    /// One sample of tokens alone.
    #[must_use]
    pub fn sample(ids: Vec<u32>) -> Self {
        let layout = Layout::packed(std::slice::from_ref(&(0..ids.len())));
        Self::tokens(Arc::new(ids), Arc::new(layout))
    }

    /// This one sample, whose tokens have no places, with more tokens behind it.
    pub(crate) fn followed_by(&self, more: &[u32]) -> Self {
        Self { replaced: self.replaced.clone(), ..Self::sample([&self.ids, more].concat()) }
    }

    /// The pictures that the model makes rows of.
    pub(super) fn pictures(&self) -> Option<&Pictures> {
        match &self.replaced.as_ref()?.by {
            Rows::Known(_) => None,
            Rows::Of(pictures) => Some(pictures),
        }
    }
}
