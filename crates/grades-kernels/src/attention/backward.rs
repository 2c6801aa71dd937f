//! The backward pass.

use std::ops::Range;

use rayon::prelude::*;

use super::{Attention, BLOCK_KEYS, BLOCK_QUERIES, Segment, segment};
use crate::dispatch::multiversion;
use crate::gemm::{Matrix, MatrixMut, Threads, product};
use crate::math::{dot, exp};

/// Where the gradients go; all are overwritten, with zeros for tokens outside all segments.
#[derive(Debug)]
pub struct AttentionGradients<'a> {
    /// `[query tokens, heads, head_dim]`.
    pub dq: &'a mut [f32],
    /// `[key tokens, kv_heads, head_dim]`.
    pub dk: &'a mut [f32],
    /// `[key tokens, kv_heads, head_dim]`.
    pub dv: &'a mut [f32],
}

/// What the forward pass took and gave.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[query tokens, heads, head_dim]`.
    pub q: &'a [f32],
    /// `[key tokens, kv_heads, head_dim]`.
    pub k: &'a [f32],
    /// `[key tokens, kv_heads, head_dim]`.
    pub v: &'a [f32],
    /// `[query tokens, heads, head_dim]`.
    pub out: &'a [f32],
    /// `[query tokens, heads]`.
    pub log_sum_exp: &'a [f32],
}

/// Gradients of [`super::attention`] from `dout [query tokens, heads, head_dim]`.
///
/// The keys of the segments too must be in order and apart.
///
/// # Panics
/// If a length or a segment does not fit.
pub fn attention_backward(
    attention: &Attention,
    segments: &[Segment],
    saved: Saved,
    dout: &[f32],
    gradients: AttentionGradients,
) {
    attention.check();
    let AttentionGradients { dq, dk, dv } = gradients;
    let tokens = saved.log_sum_exp.len() / attention.heads;
    assert_eq!(saved.log_sum_exp.len(), tokens * attention.heads);
    assert_eq!(saved.q.len(), tokens * attention.query_width());
    assert_eq!(saved.out.len(), saved.q.len());
    assert_eq!(dout.len(), saved.q.len());
    assert_eq!(dq.len(), saved.q.len());
    assert_eq!(saved.k.len() % attention.key_width(), 0);
    assert_eq!(saved.v.len(), saved.k.len());
    assert_eq!(dk.len(), saved.k.len());
    assert_eq!(dv.len(), saved.k.len());
    segment::check(segments, tokens, saved.k.len() / attention.key_width());
    assert!(segments.is_sorted_by(|a, b| a.keys.end <= b.keys.start), "the keys of segments overlap");

    // Every head of queries gets its own sums, head by head and contiguous, so that the heads of a group need not
    // wait for each other; gathering them afterwards adds the group up in a fixed order.
    let (heads, head_dim) = (attention.heads, attention.head_dim);
    let queries: usize = segments.iter().map(|s| s.queries.len()).sum();
    let keys: usize = segments.iter().map(|s| s.keys.len()).sum();
    let mut dq_heads = vec![0.0; queries * heads * head_dim];
    let mut dk_heads = vec![0.0; keys * heads * head_dim];
    let mut dv_heads = vec![0.0; keys * heads * head_dim];
    let (mut dq_rest, mut dk_rest, mut dv_rest) = (&mut dq_heads[..], &mut dk_heads[..], &mut dv_heads[..]);
    let mut jobs = Vec::with_capacity(segments.len() * heads);
    for segment in segments {
        for head in 0..heads {
            let dq = split_off(&mut dq_rest, segment.queries.len() * head_dim);
            let dk = split_off(&mut dk_rest, segment.keys.len() * head_dim);
            let dv = split_off(&mut dv_rest, segment.keys.len() * head_dim);
            jobs.push((segment, head, AttentionGradients { dq, dk, dv }));
        }
    }
    jobs.into_par_iter().for_each_init(Scratch::default, |scratch, (segment, head, gradients)| {
        backward_head(attention, segment, head, &saved, dout, gradients, scratch);
    });

    let query_spans: Vec<_> = segments.iter().map(|s| s.queries.clone()).collect();
    let key_spans: Vec<_> = segments.iter().map(|s| s.keys.clone()).collect();
    gather_heads(&query_spans, &dq_heads, heads, 1, head_dim, dq);
    gather_heads(&key_spans, &dk_heads, heads, heads / attention.kv_heads, head_dim, dk);
    gather_heads(&key_spans, &dv_heads, heads, heads / attention.kv_heads, head_dim, dv);
}

fn split_off<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    let (first, after) = std::mem::take(rest).split_at_mut(count);
    *rest = after;
    first
}

#[derive(Default)]
struct Scratch {
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`.
    probabilities: Vec<f32>,
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: gradient of the probabilities, then of the scores.
    dscores: Vec<f32>,
}

/// One head of one segment: `gradients` are `[queries, head_dim]`, `[keys, head_dim]` and `[keys, head_dim]`, zero.
fn backward_head(
    attention: &Attention,
    segment: &Segment,
    head: usize,
    saved: &Saved,
    dout: &[f32],
    gradients: AttentionGradients,
    scratch: &mut Scratch,
) {
    let Attention { heads, kv_heads, head_dim, scale, .. } = *attention;
    let (query_width, key_width) = (attention.query_width(), attention.key_width());
    let kv_head = head / (heads / kv_heads);
    scratch.probabilities.resize(BLOCK_QUERIES * BLOCK_KEYS, 0.0);
    scratch.dscores.resize(BLOCK_QUERIES * BLOCK_KEYS, 0.0);
    for first_query in segment.queries.clone().step_by(BLOCK_QUERIES) {
        let queries = first_query..segment.queries.end.min(first_query + BLOCK_QUERIES);
        let rows = queries.len();
        let q_start = queries.start * query_width + head * head_dim;
        let q = Matrix::with_stride(&saved.q[q_start..], rows, head_dim, query_width);
        let dout_block = Matrix::with_stride(&dout[q_start..], rows, head_dim, query_width);
        let dq = &mut gradients.dq[(queries.start - segment.queries.start) * head_dim..][..rows * head_dim];
        let mut row_terms = [RowTerms::default(); BLOCK_QUERIES];
        for (row, terms) in row_terms[..rows].iter_mut().enumerate() {
            let start = q_start + row * query_width;
            terms.log_sum_exp = saved.log_sum_exp[(queries.start + row) * heads + head];
            terms.along = row_dot(&saved.out[start..start + head_dim], &dout[start..start + head_dim]);
        }
        let visible = segment.visible_to_block(attention, &queries);
        for first_key in visible.clone().step_by(BLOCK_KEYS) {
            let keys = first_key..visible.end.min(first_key + BLOCK_KEYS);
            let columns = keys.len();
            let kv_start = keys.start * key_width + kv_head * head_dim;
            let k = Matrix::with_stride(&saved.k[kv_start..], columns, head_dim, key_width);
            let v = Matrix::with_stride(&saved.v[kv_start..], columns, head_dim, key_width);
            let key_rows = (keys.start - segment.keys.start) * head_dim..(keys.end - segment.keys.start) * head_dim;
            let probabilities = &mut scratch.probabilities[..rows * columns];
            let dscores = &mut scratch.dscores[..rows * columns];
            let one = Threads::One;
            let to = MatrixMut::new(probabilities, rows, columns);
            product(q.strided(), k.strided().transposed(), to, scale, false, one);
            let to = MatrixMut::new(dscores, rows, columns);
            product(dout_block.strided(), v.strided().transposed(), to, 1.0, false, one);
            for (row, terms) in row_terms[..rows].iter_mut().enumerate() {
                let seen = segment.visible(attention, queries.start + row);
                terms.span = clip(seen, &keys);
            }
            softmax_backward(probabilities, dscores, &row_terms[..rows], scale);
            let probabilities = Matrix::new(probabilities, rows, columns).strided();
            let dscores = Matrix::new(dscores, rows, columns).strided();
            let to = MatrixMut::new(&mut gradients.dv[key_rows.clone()], columns, head_dim);
            product(probabilities.transposed(), dout_block.strided(), to, 1.0, true, one);
            let to = MatrixMut::new(&mut gradients.dk[key_rows], columns, head_dim);
            product(dscores.transposed(), q.strided(), to, 1.0, true, one);
            let to = MatrixMut::new(dq, rows, head_dim);
            product(dscores, k.strided(), to, 1.0, true, one);
        }
    }
}

/// What the softmax of one row needs.
#[derive(Clone, Copy, Default)]
struct RowTerms {
    log_sum_exp: f32,
    /// Σ out·dout of the head, which is Σ probability · its gradient.
    along: f32,
    /// The columns that the row sees.
    span: (usize, usize),
}

fn clip(seen: Range<usize>, keys: &Range<usize>) -> (usize, usize) {
    (seen.start.clamp(keys.start, keys.end) - keys.start, seen.end.clamp(keys.start, keys.end) - keys.start)
}

multiversion! {
    fn row_dot<FMA>(a: &[f32], b: &[f32]) -> f32 {
        dot::<FMA>(a, b)
    }

    /// Turns scores into probabilities, and gradients of the probabilities into those of the unscaled scores.
    fn softmax_backward<FMA>(scores: &mut [f32], dscores: &mut [f32], rows: &[RowTerms], scale: f32) {
        let columns = scores.len() / rows.len();
        for (row, terms) in rows.iter().enumerate() {
            let scores = &mut scores[row * columns..][..columns];
            let dscores = &mut dscores[row * columns..][..columns];
            let (start, end) = terms.span;
            scores[..start].fill(0.0);
            dscores[..start].fill(0.0);
            scores[end..].fill(0.0);
            dscores[end..].fill(0.0);
            for (score, dscore) in scores[start..end].iter_mut().zip(&mut dscores[start..end]) {
                *score = exp::<FMA>(*score - terms.log_sum_exp);
                *dscore = *score * (*dscore - terms.along) * scale;
            }
        }
    }
}

/// Writes per-head sums (for each span: `[heads, span, head_dim]`) as `total [tokens, heads / group, head_dim]`, adding
/// up the heads of each group.
fn gather_heads(
    spans: &[Range<usize>],
    per_head: &[f32],
    heads: usize,
    group: usize,
    head_dim: usize,
    total: &mut [f32],
) {
    let width = heads / group * head_dim;
    let mut jobs = Vec::with_capacity(2 * spans.len() + 1);
    let (mut rest, mut token, mut offset) = (total, 0, 0);
    for span in spans {
        split_off(&mut rest, (span.start - token) * width).fill(0.0);
        jobs.push((split_off(&mut rest, span.len() * width), &per_head[offset..][..span.len() * heads * head_dim]));
        offset += span.len() * heads * head_dim;
        token = span.end;
    }
    rest.fill(0.0);
    jobs.into_par_iter().for_each(|(total, per_head)| {
        let tokens = total.len() / width;
        for (token, row) in total.chunks_exact_mut(width).enumerate() {
            for (group_index, row) in row.chunks_exact_mut(head_dim).enumerate() {
                for head in group_index * group..(group_index + 1) * group {
                    let source = &per_head[(head * tokens + token) * head_dim..][..head_dim];
                    if head == group_index * group {
                        row.copy_from_slice(source);
                    } else {
                        for (total, part) in row.iter_mut().zip(source) {
                            *total += part;
                        }
                    }
                }
            }
        }
    });
}
