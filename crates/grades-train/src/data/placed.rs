//! Pictures at their places among the tokens of a sample.

use std::ops::Range;

use grades_images::Layout;

use super::picture::Picture;
use super::record::Place;

/// A picture, and the tokens whose rows its features take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The picture.
    pub picture: Picture,
    /// What its processor makes of it.
    pub layout: Layout,
    /// The tokens, in runs; as many as the tower gives features.
    pub tokens: Vec<Range<usize>>,
    /// The row that it belongs to, as messages name it.
    pub place: Place,
}

impl Placed {
    /// How many rows it takes.
    pub fn rows(&self) -> usize {
        self.tokens.iter().map(ExactSizeIterator::len).sum()
    }

    /// How many pictures the tower sees: one, or of one in tiles these.
    pub fn tiles(&self) -> usize {
        self.layout.tiles().max(1)
    }

    /// The same in a batch, whose tokens begin so much earlier.
    pub(super) fn moved(&self, by: usize) -> Self {
        let tokens = self.tokens.iter().map(|run| run.start + by..run.end + by).collect();
        Self { tokens, ..self.clone() }
    }

    /// The same in what a sample has behind its first `from` tokens; `None` if it begins among these.
    pub(crate) fn behind(&self, from: usize) -> Option<Self> {
        let behind = |run: &Range<usize>| Some(run.start.checked_sub(from)?..run.end - from);
        let tokens = self.tokens.iter().map(behind).collect::<Option<_>>()?;
        Some(Self { tokens, ..self.clone() })
    }

    /// Whether a sample of that many tokens has all of it.
    pub(crate) fn is_within(&self, len: usize) -> bool {
        self.tokens.iter().all(|run| run.end <= len)
    }
}
