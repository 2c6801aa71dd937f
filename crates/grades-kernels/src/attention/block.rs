//! The blocks of queries that the forward pass runs through.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::form::{Attention, BLOCK_QUERIES};
use super::one_query::attend_one;
use super::segment::Segment;
use crate::Element;
use crate::threads::each_with;
use crate::unwritten::filled;

/// Consecutive queries of one segment, or tokens of none, and where their results go.
pub(super) struct Block<'a, E> {
    /// The segment's number.
    pub(super) segment: Option<usize>,
    pub(super) queries: Range<usize>,
    /// Room for `[queries, heads, head_dim]`.
    pub(super) out: &'a mut [MaybeUninit<E>],
    pub(super) log_sum_exp: &'a mut [f32],
}

/// Cuts the tokens into blocks of at most [`BLOCK_QUERIES`] that do not cross a segment's end.
fn blocks<'a, E>(
    attention: &Attention,
    segments: &[Segment],
    tokens: usize,
    mut out: &'a mut [MaybeUninit<E>],
    mut log_sum_exp: &'a mut [f32],
) -> Vec<Block<'a, E>> {
    let mut blocks = Vec::new();
    let mut start = 0;
    let mut push = |segment: Option<usize>, end: usize| {
        while start < end {
            let queries = start..end.min(start + BLOCK_QUERIES);
            start = queries.end;
            let (block_out, rest) = std::mem::take(&mut out).split_at_mut(queries.len() * attention.query_width());
            out = rest;
            let (block_sums, rest) = std::mem::take(&mut log_sum_exp).split_at_mut(queries.len() * attention.heads);
            log_sum_exp = rest;
            blocks.push(Block { segment, queries, out: block_out, log_sum_exp: block_sums });
        }
    };
    for (index, segment) in segments.iter().enumerate() {
        push(None, segment.queries.start);
        push(Some(index), segment.queries.end);
    }
    push(None, tokens);
    blocks
}

/// Runs every block of queries: `attend` those of segments with several queries, numbered. Where `attend` writes all of a
/// block's output, all of `out` is written.
pub(super) fn each_block<E: Element, S>(
    attention: &Attention,
    segments: &[Segment],
    (q, k, v): (&[E], &[E], &[E]),
    (out, log_sum_exp): (&mut [MaybeUninit<E>], &mut [f32]),
    init: impl Fn() -> S + Sync,
    attend: impl Fn(&mut S, (usize, &Segment), Block<E>) + Sync,
) {
    let (tokens, width) = (log_sum_exp.len() / attention.heads, attention.query_width());
    each_with(blocks(attention, segments, tokens, out, log_sum_exp), init, |scratch, block| {
        match block.segment.map(|index| (index, &segments[index])) {
            None => {
                filled(block.out, E::ZERO);
                block.log_sum_exp.fill(0.0);
            }
            Some((_, segment)) if segment.queries.len() == 1 => {
                let q = &q[block.queries.start * width..block.queries.end * width];
                attend_one(attention, segment, q, k, v, block.out, block.log_sum_exp);
            }
            Some(segment) => attend(scratch, segment, block),
        }
    });
}
