//! Which tokens see which.

use std::ops::Range;

use super::Attention;

/// A sample within the packed batch: its queries see its keys and nothing else.
///
/// The queries are the last positions of the keys: with more keys than queries (a cache of earlier tokens), the first
/// query has position `keys.len() − queries.len()` and sees the keys up to there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// Rows of the keys and values.
    pub keys: Range<usize>,
}

/// A sample whose queries and keys are the same rows: training.
impl From<Range<usize>> for Segment {
    fn from(tokens: Range<usize>) -> Self {
        Self { queries: tokens.clone(), keys: tokens }
    }
}

/// A sample whose queries and keys are the rows from the first number to before the second.
impl From<(usize, usize)> for Segment {
    fn from((start, end): (usize, usize)) -> Self {
        Self::from(start..end)
    }
}

impl Segment {
    /// Position of the first query among the keys.
    pub(super) fn past(&self) -> usize {
        self.keys.len() - self.queries.len()
    }

    /// Rows of the keys that the query in row `query` sees.
    pub(super) fn visible(&self, attention: &Attention, query: usize) -> Range<usize> {
        let position = self.past() + query - self.queries.start;
        let start = attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let end = match (attention.causal, attention.window) {
            (true, _) => position + 1,
            (false, Some(window)) => (position.saturating_add(window)).min(self.keys.len()),
            (false, None) => self.keys.len(),
        };
        self.keys.start + start..self.keys.start + end
    }

    /// Rows of the keys that any of the queries in `queries` sees.
    pub(super) fn visible_to_block(&self, attention: &Attention, queries: &Range<usize>) -> Range<usize> {
        self.visible(attention, queries.start).start..self.visible(attention, queries.end - 1).end
    }
}

/// Panics unless the segments lie within the tokens and their queries are in order and apart.
pub(super) fn check(segments: &[Segment], query_tokens: usize, key_tokens: usize) {
    let mut end = 0;
    for segment in segments {
        let Segment { queries, keys } = segment;
        assert!(queries.start >= end && queries.end >= queries.start, "the queries of segments overlap");
        assert!(keys.end >= keys.start && keys.len() >= queries.len(), "a segment has fewer keys than queries");
        assert!(queries.end <= query_tokens && keys.end <= key_tokens, "a segment ends after the last token");
        end = queries.end;
    }
}
