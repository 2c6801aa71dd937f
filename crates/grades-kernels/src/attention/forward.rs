//! The forward pass.

use std::ops::Range;

use rayon::prelude::*;

use super::{Attention, BLOCK_KEYS, BLOCK_QUERIES, Segment, segment};
use crate::dispatch::multiversion;
use crate::gemm::{Matrix, MatrixMut, Threads, product};
use crate::math::{exp, max, sum};

/// Attention of `q [query tokens, heads, head_dim]` over `k` and `v [key tokens, kv_heads, head_dim]`, into
/// `out [query tokens, heads, head_dim]`; keeps ln Σ exp of every row of scores in
/// `log_sum_exp [query tokens, heads]`. Tokens outside all segments get zeros.
///
/// The queries of the segments must be in order and apart; their keys may lie anywhere (also in a cache).
///
/// # Panics
/// If a length or a segment does not fit.
pub fn attention(
    attention: &Attention,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sum_exp: &mut [f32],
) {
    attention.check();
    let tokens = log_sum_exp.len() / attention.heads;
    assert_eq!(q.len(), tokens * attention.query_width());
    assert_eq!(log_sum_exp.len(), tokens * attention.heads);
    assert_eq!(out.len(), q.len());
    assert_eq!(k.len(), v.len());
    assert_eq!(k.len() % attention.key_width(), 0);
    segment::check(segments, tokens, k.len() / attention.key_width());

    let blocks = blocks(attention, segments, tokens, out, log_sum_exp);
    blocks.into_par_iter().for_each_init(
        || Scratch::new(attention),
        |scratch, block| match block.segment {
            Some(segment) => attend(attention, segment, block, q, k, v, scratch),
            None => {
                block.out.fill(0.0);
                block.log_sum_exp.fill(0.0);
            }
        },
    );
}

/// Consecutive queries of one segment, or tokens of none, and where their results go.
struct Block<'a> {
    segment: Option<&'a Segment>,
    queries: Range<usize>,
    out: &'a mut [f32],
    log_sum_exp: &'a mut [f32],
}

/// Cuts the tokens into blocks of at most [`BLOCK_QUERIES`] that do not cross a segment's end.
fn blocks<'a>(
    attention: &Attention,
    segments: &'a [Segment],
    tokens: usize,
    mut out: &'a mut [f32],
    mut log_sum_exp: &'a mut [f32],
) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    let mut start = 0;
    let mut push = |segment: Option<&'a Segment>, end: usize| {
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
    for segment in segments {
        push(None, segment.queries.start);
        push(Some(segment), segment.queries.end);
    }
    push(None, tokens);
    blocks
}

struct Scratch {
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: scores, then probabilities.
    scores: Vec<f32>,
    /// `[BLOCK_QUERIES, head_dim]`: the weighted sum of values so far.
    sums: Vec<f32>,
}

impl Scratch {
    fn new(attention: &Attention) -> Self {
        Self { scores: vec![0.0; BLOCK_QUERIES * BLOCK_KEYS], sums: vec![0.0; BLOCK_QUERIES * attention.head_dim] }
    }
}

/// One block of queries, head by head.
fn attend(
    attention: &Attention,
    segment: &Segment,
    block: Block,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    scratch: &mut Scratch,
) {
    let Attention { heads, kv_heads, head_dim, scale, .. } = *attention;
    let (query_width, key_width) = (attention.query_width(), attention.key_width());
    let rows = block.queries.len();
    let visible = segment.visible_to_block(attention, &block.queries);
    let sums = &mut scratch.sums[..rows * head_dim];
    for head in 0..heads {
        let q_start = block.queries.start * query_width + head * head_dim;
        let q = Matrix::with_stride(&q[q_start..], rows, head_dim, query_width);
        let kv_head = head / (heads / kv_heads);
        let mut running = [Running { max: f32::NEG_INFINITY, sum: 0.0 }; BLOCK_QUERIES];
        sums.fill(0.0);
        for first_key in visible.clone().step_by(BLOCK_KEYS) {
            let keys = first_key..visible.end.min(first_key + BLOCK_KEYS);
            let kv_start = keys.start * key_width + kv_head * head_dim;
            let k = Matrix::with_stride(&k[kv_start..], keys.len(), head_dim, key_width);
            let v = Matrix::with_stride(&v[kv_start..], keys.len(), head_dim, key_width);
            let scores = &mut scratch.scores[..rows * keys.len()];
            let scores_out = MatrixMut::new(scores, rows, keys.len());
            product(q.strided(), k.strided().transposed(), scores_out, scale, false, Threads::One);
            let seen = |row: usize| {
                let seen = segment.visible(attention, block.queries.start + row);
                seen.start.clamp(keys.start, keys.end) - keys.start..seen.end.clamp(keys.start, keys.end) - keys.start
            };
            let mut spans = [(0, 0); BLOCK_QUERIES];
            for (row, span) in spans[..rows].iter_mut().enumerate() {
                let seen = seen(row);
                *span = (seen.start, seen.end);
            }
            online_softmax(scores, &spans[..rows], &mut running[..rows], sums);
            let probabilities = Matrix::new(scores, rows, keys.len());
            let sums_out = MatrixMut::new(sums, rows, head_dim);
            product(probabilities.strided(), v.strided(), sums_out, 1.0, true, Threads::One);
        }
        for (row, running) in running[..rows].iter().enumerate() {
            block.log_sum_exp[row * heads + head] = running.max + running.sum.ln();
            let factor = 1.0 / running.sum;
            let out = &mut block.out[row * query_width + head * head_dim..][..head_dim];
            for (out, sum) in out.iter_mut().zip(&sums[row * head_dim..]) {
                *out = sum * factor;
            }
        }
    }
}

/// Largest score of a row so far, and the sum of exp(score − max).
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

multiversion! {
    /// Turns scores (rows of equal length, of which each sees one span) into exp(score − max) and 0 where unseen, and
    /// rescales the running `sums` (rows of `head_dim`) where the maximum grows.
    fn online_softmax<FMA>(scores: &mut [f32], spans: &[(usize, usize)], running: &mut [Running], sums: &mut [f32]) {
        let columns = scores.len() / spans.len();
        let head_dim = sums.len() / spans.len();
        for (row, (&(start, end), running)) in spans.iter().zip(running).enumerate() {
            let row_scores = &mut scores[row * columns..][..columns];
            row_scores[..start].fill(0.0);
            row_scores[end..].fill(0.0);
            if start == end {
                continue;
            }
            let seen = &mut row_scores[start..end];
            let largest = max(seen);
            if largest > running.max {
                let shrink = exp::<FMA>(running.max - largest);
                running.max = largest;
                running.sum *= shrink;
                for sum in &mut sums[row * head_dim..][..head_dim] {
                    *sum *= shrink;
                }
            }
            for score in seen.iter_mut() {
                *score = exp::<FMA>(*score - running.max);
            }
            running.sum += sum(seen);
        }
    }
}
