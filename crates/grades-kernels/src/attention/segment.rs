//! Which tokens see which.

use std::ops::Range;

use super::form::{Attention, BLOCK_KEYS, BLOCK_QUERIES};
use crate::gemm::Band;

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
    /// The keys, counted within the segment, that the query in row `query` sees.
    pub(super) fn visible(&self, attention: &Attention, query: usize) -> Range<usize> {
        let position = self.keys.len() - self.queries.len() + query - self.queries.start;
        let start = attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let end = match (attention.causal, attention.window) {
            (true, _) => position + 1,
            (false, Some(window)) => position.saturating_add(window).min(self.keys.len()),
            (false, None) => self.keys.len(),
        };
        start..end
    }

    /// The blocks of keys, counted within the segment, that any of `queries` sees something of.
    pub(super) fn visible_blocks(
        &self,
        attention: &Attention,
        queries: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let start = self.visible(attention, queries.start).start / BLOCK_KEYS * BLOCK_KEYS;
        let end = self.visible(attention, queries.end - 1).end;
        let keys = self.keys.len();
        (start..end).step_by(BLOCK_KEYS).map(move |start| start..keys.min(start + BLOCK_KEYS))
    }
}

/// Which columns of a block of scores each of its rows sees. Later rows start and end no earlier.
pub(super) struct Spans {
    spans: [(usize, usize); BLOCK_QUERIES],
    rows: usize,
}

impl Spans {
    pub(super) fn new(attention: &Attention, segment: &Segment, queries: &Range<usize>, keys: &Range<usize>) -> Self {
        let mut spans = [(0, 0); BLOCK_QUERIES];
        for (span, query) in spans.iter_mut().zip(queries.clone()) {
            let visible = segment.visible(attention, query);
            let column = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
            *span = (column(visible.start), column(visible.end));
        }
        Self { spans, rows: queries.len() }
    }

    /// First and last-plus-one column of each row.
    pub(super) fn of_rows(&self) -> &[(usize, usize)] {
        &self.spans[..self.rows]
    }

    /// Of the product that gives the scores of `rows`: the columns that they see, widened to whole vectors.
    pub(super) fn scores(&self, rows: Range<usize>, head_dim: usize) -> Band {
        let seen = self.seen_by(rows);
        Band { inner: 0..head_dim, columns: seen.start / VECTOR * VECTOR..seen.end.next_multiple_of(VECTOR) }
    }

    /// Of the product that sums over the keys for `rows`: the keys that they see.
    pub(super) fn over_keys(&self, rows: Range<usize>, head_dim: usize) -> Band {
        Band { inner: self.seen_by(rows), columns: 0..head_dim }
    }

    /// Of the product that sums over the queries for `keys`: the queries that see them.
    pub(super) fn over_queries(&self, keys: Range<usize>, head_dim: usize) -> Band {
        let start = self.of_rows().partition_point(|&(_, end)| end <= keys.start);
        let end = self.of_rows().partition_point(|&(start, _)| start < keys.end);
        Band { inner: start..end.max(start), columns: 0..head_dim }
    }

    fn seen_by(&self, rows: Range<usize>) -> Range<usize> {
        self.spans[rows.start].0..self.spans[rows.end - 1].1
    }
}

/// Columns of scores are padded to a multiple of this.
pub(super) const VECTOR: usize = 16;

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
