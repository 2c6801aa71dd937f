//! The backward pass.

use std::ops::Range;

use super::forward::copy_head;
#[cfg(target_arch = "x86_64")]
use super::native;
use super::pack::{Layout, Packed};
use super::segment::Spans;
use super::{Attention, BLOCK_KEYS, BLOCK_QUERIES, Segment, segment};
use crate::Element;
use crate::dispatch::multiversion;
use crate::gemm::{Matrix, MatrixMut, banded};
use crate::math::{dot, exp, mul_add};
use crate::memory::written_each;
use crate::threads::{each, each_with};

/// Where the gradients go; all are overwritten, with zeros for tokens outside all segments.
#[derive(Debug)]
pub struct AttentionGradients<'a, E = f32> {
    /// `[query tokens, heads, head_dim]`.
    pub dq: &'a mut [E],
    /// `[key tokens, kv_heads, head_dim]`.
    pub dk: &'a mut [E],
    /// `[key tokens, kv_heads, head_dim]`.
    pub dv: &'a mut [E],
}

impl AttentionGradients<'_> {
    /// Zeros, to add to.
    pub(super) fn clear(&mut self) {
        self.dq.fill(0.0);
        self.dk.fill(0.0);
        self.dv.fill(0.0);
    }
}

/// What the forward pass took and gave.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a, E = f32> {
    /// `[query tokens, heads, head_dim]`.
    pub q: &'a [E],
    /// `[key tokens, kv_heads, head_dim]`.
    pub k: &'a [E],
    /// `[key tokens, kv_heads, head_dim]`.
    pub v: &'a [E],
    /// `[query tokens, heads, head_dim]`.
    pub out: &'a [E],
    /// `[query tokens, heads]`.
    pub log_sum_exp: &'a [f32],
}

/// [`attention_backward`] into new memory: dq, dk and dv.
///
/// # Panics
/// If a length or a segment does not fit.
#[must_use]
pub fn attention_backward_new<E: Element>(
    attention: &Attention,
    segments: &[Segment],
    saved: Saved<E>,
    dout: &[E],
) -> [Vec<E>; 3] {
    // SAFETY: the kernel overwrites every element of all three, and reads none of them, or panics.
    unsafe {
        written_each([saved.q.len(), saved.k.len(), saved.k.len()], |[dq, dk, dv]| {
            attention_backward(attention, segments, saved, dout, AttentionGradients { dq, dk, dv });
        })
    }
}

/// Gradients of [`super::attention`] from `dout [query tokens, heads, head_dim]`.
///
/// The keys of the segments too must be in order and apart.
///
/// # Panics
/// If a length or a segment does not fit.
pub fn attention_backward<E: Element>(
    attention: &Attention,
    segments: &[Segment],
    saved: Saved<E>,
    dout: &[E],
    gradients: AttentionGradients<E>,
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
    let lens = [queries, keys, keys].map(|tokens| tokens * heads * head_dim);
    // SAFETY: each job clears its parts before it adds to them, and the parts of all jobs are the whole.
    let [dq_heads, dk_heads, dv_heads] = unsafe {
        written_each(lens, |[dq, dk, dv]| {
            each_head(attention, segments, saved, dout, AttentionGradients { dq, dk, dv });
        })
    };

    let query_spans: Vec<_> = segments.iter().map(|s| s.queries.clone()).collect();
    let key_spans: Vec<_> = segments.iter().map(|s| s.keys.clone()).collect();
    // The scores' gradients are those of scores with scaled queries.
    gather_heads(&query_spans, &dq_heads, (heads, 1), head_dim, attention.scale, dq);
    let groups = (heads, heads / attention.kv_heads);
    gather_heads(&key_spans, &dk_heads, groups, head_dim, 1.0, dk);
    gather_heads(&key_spans, &dv_heads, groups, head_dim, 1.0, dv);
}

/// The gradients of every head of queries by itself, into `[heads, tokens, head_dim]` for each segment.
fn each_head<E: Element>(
    attention: &Attention,
    segments: &[Segment],
    saved: Saved<E>,
    dout: &[E],
    gradients: AttentionGradients,
) {
    let (heads, head_dim) = (attention.heads, attention.head_dim);
    let AttentionGradients { dq: mut dq_rest, dk: mut dk_rest, dv: mut dv_rest } = gradients;
    let mut jobs = Vec::with_capacity(segments.len() * heads);
    for (index, segment) in segments.iter().enumerate() {
        for head in 0..heads {
            let dq = split_off(&mut dq_rest, segment.queries.len() * head_dim);
            let dk = split_off(&mut dk_rest, segment.keys.len() * head_dim);
            let dv = split_off(&mut dv_rest, segment.keys.len() * head_dim);
            jobs.push((index, head, AttentionGradients { dq, dk, dv }));
        }
    }
    #[cfg(target_arch = "x86_64")]
    let jobs = match (saved.as_bf16(), E::as_bf16(dout)) {
        (Some(saved), Some(dout)) if native::takes(attention) => {
            native::backward(attention, segments, saved, dout, jobs);
            Vec::new()
        }
        _ => jobs,
    };
    if !jobs.is_empty() {
        let packed = KeysAndValues {
            k_columns: Packed::new(attention, segments, 1, saved.k, Layout::Columns),
            k_rows: Packed::new(attention, segments, 1, saved.k, Layout::Rows),
            v_columns: Packed::new(attention, segments, 1, saved.v, Layout::Columns),
        };
        each_with(
            jobs,
            || Scratch::new(attention),
            |scratch, (index, head, gradients)| {
                let head = Head { index, segment: &segments[index], head, packed: &packed };
                head.backward(attention, &saved, dout, gradients, scratch);
            },
        );
    }
}

impl<'a, E: Element> Saved<'a, E> {
    /// The same where it is bf16.
    #[cfg(target_arch = "x86_64")]
    fn as_bf16(&self) -> Option<Saved<'a, half::bf16>> {
        Some(Saved {
            q: E::as_bf16(self.q)?,
            k: E::as_bf16(self.k)?,
            v: E::as_bf16(self.v)?,
            out: E::as_bf16(self.out)?,
            log_sum_exp: self.log_sum_exp,
        })
    }
}

fn split_off<'a, E>(rest: &mut &'a mut [E], count: usize) -> &'a mut [E] {
    let (first, after) = std::mem::take(rest).split_at_mut(count);
    *rest = after;
    first
}

/// Keys both ways and values transposed.
struct KeysAndValues {
    k_columns: Packed,
    k_rows: Packed,
    v_columns: Packed,
}

struct Scratch {
    /// `[BLOCK_QUERIES, head_dim]`: the scaled queries.
    q: Vec<f32>,
    /// `[BLOCK_QUERIES, head_dim]`.
    dout: Vec<f32>,
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: scores, then probabilities.
    scores: Vec<f32>,
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: gradient of the probabilities, then of the scores.
    dscores: Vec<f32>,
}

impl Scratch {
    fn new(attention: &Attention) -> Self {
        let (block, scores) = (BLOCK_QUERIES * attention.head_dim, BLOCK_QUERIES * BLOCK_KEYS);
        let [q, dout, scores, dscores] = [block, block, scores, scores].map(|len| vec![0.0; len]);
        Self { q, dout, scores, dscores }
    }
}

/// One head of the queries of one segment.
struct Head<'a> {
    index: usize,
    segment: &'a Segment,
    head: usize,
    packed: &'a KeysAndValues,
}

impl Head<'_> {
    /// Writes `gradients`, which are `[queries, head_dim]` (of the scaled queries) and twice `[keys, head_dim]`.
    fn backward<E: Element>(
        &self,
        attention: &Attention,
        saved: &Saved<E>,
        dout: &[E],
        mut gradients: AttentionGradients,
        scratch: &mut Scratch,
    ) {
        gradients.clear();
        let Attention { heads, kv_heads, head_dim, scale, .. } = *attention;
        let &Self { index, segment, head, packed } = self;
        let kv_head = head / (heads / kv_heads);
        for first_query in segment.queries.clone().step_by(BLOCK_QUERIES) {
            let queries = first_query..segment.queries.end.min(first_query + BLOCK_QUERIES);
            let rows = queries.len();
            let source = queries.start * attention.query_width()..queries.end * attention.query_width();
            let (q, dout_head) = (&mut scratch.q[..rows * head_dim], &mut scratch.dout[..rows * head_dim]);
            copy_head(attention, &saved.q[source.clone()], head, scale, q);
            copy_head(attention, &dout[source], head, 1.0, dout_head);
            let mut terms = [RowTerms::default(); BLOCK_QUERIES];
            for ((terms, query), dout) in terms.iter_mut().zip(queries.clone()).zip(dout_head.chunks_exact(head_dim)) {
                terms.log_sum_exp = saved.log_sum_exp[query * heads + head];
                terms.along = along(&saved.out[(query * heads + head) * head_dim..][..head_dim], dout);
            }
            let (q, dout_head) = (Matrix::new(q, rows, head_dim), Matrix::new(dout_head, rows, head_dim));
            let dq = &mut gradients.dq[(queries.start - segment.queries.start) * head_dim..][..rows * head_dim];
            for keys in segment.visible_blocks(attention, &queries) {
                let spans = Spans::new(attention, segment, &queries, &keys);
                let k = packed.k_columns.block(index, segment, kv_head, &keys);
                let v = packed.v_columns.block(index, segment, kv_head, &keys);
                let columns = k.columns();
                let scores = &mut scratch.scores[..rows * columns];
                let dscores = &mut scratch.dscores[..rows * columns];
                let to = MatrixMut::new(scores, rows, columns);
                banded(q.strided(), k, to, false, |rows| spans.scores(rows, head_dim));
                let to = MatrixMut::new(dscores, rows, columns);
                banded(dout_head.strided(), v, to, false, |rows| spans.scores(rows, head_dim));
                softmax_backward(scores, 1.0, dscores, &terms[..rows], spans.of_rows());

                let key_rows = keys.start * head_dim..keys.end * head_dim;
                let probabilities = Matrix::with_stride(scores, rows, keys.len(), columns).strided();
                let to = MatrixMut::new(&mut gradients.dv[key_rows.clone()], keys.len(), head_dim);
                banded(probabilities.transposed(), dout_head, to, true, |keys| spans.over_queries(keys, head_dim));
                let dscores = Matrix::with_stride(dscores, rows, keys.len(), columns).strided();
                let to = MatrixMut::new(&mut gradients.dk[key_rows], keys.len(), head_dim);
                banded(dscores.transposed(), q, to, true, |keys| spans.over_queries(keys, head_dim));
                let k = packed.k_rows.block(index, segment, kv_head, &keys);
                banded(dscores, k, MatrixMut::new(dq, rows, head_dim), true, |rows| spans.over_keys(rows, head_dim));
            }
        }
    }
}

/// What the softmax of one row needs.
#[derive(Clone, Copy, Default)]
pub(super) struct RowTerms {
    pub(super) log_sum_exp: f32,
    /// Σ out·dout of the head, which is Σ probability · its gradient.
    pub(super) along: f32,
}

multiversion! {
    /// Σ out·dout of one head.
    pub(super) fn along<FMA; E: Element, D: Element>(out: &[E], dout: &[D]) -> f32 {
        dot::<FMA>(out, dout)
    }

    /// Turns scores, `scale` times, into probabilities, and gradients of the probabilities into those of the scores; 0 where unseen.
    pub(super) fn softmax_backward<FMA>(
        scores: &mut [f32], scale: f32, dscores: &mut [f32], rows: &[RowTerms], spans: &[(usize, usize)],
    ) {
        let columns = scores.len() / rows.len();
        let blocks = scores.chunks_exact_mut(columns).zip(dscores.chunks_exact_mut(columns));
        for ((scores, dscores), (terms, &(start, end))) in blocks.zip(rows.iter().zip(spans)) {
            scores[..start].fill(0.0);
            dscores[..start].fill(0.0);
            scores[end..].fill(0.0);
            dscores[end..].fill(0.0);
            for (score, dscore) in scores[start..end].iter_mut().zip(&mut dscores[start..end]) {
                *score = exp::<FMA>(mul_add::<FMA>(*score, scale, -terms.log_sum_exp));
                *dscore = *score * (*dscore - terms.along);
            }
        }
    }
}

/// Tokens of which a task gathers the heads.
const GATHERED_ROWS: usize = 32;
/// Elements that are summed at a time: a common size of a head.
const MAX_CHUNK: usize = 64;

multiversion! {
    /// The sum of `count` parts of `parts` as long as `total`, the first at the start and each `stride` after the one before,
    /// in their order, times `factor`.
    fn sum_heads<FMA; E: Element>(parts: &[f32], count: usize, stride: usize, factor: f32, total: &mut [E]) {
        let mut sums = [0.0_f32; MAX_CHUNK];
        for (chunk, total) in total.chunks_mut(MAX_CHUNK).enumerate() {
            let sums = &mut sums[..total.len()];
            sums.copy_from_slice(&parts[chunk * MAX_CHUNK..][..total.len()]);
            for part in 1..count {
                let part = &parts[part * stride + chunk * MAX_CHUNK..][..total.len()];
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum += part;
                }
            }
            for (total, sum) in total.iter_mut().zip(sums) {
                *total = E::narrow(*sum * factor);
            }
        }
    }
}

/// Writes per-head sums (for each span: `[heads, span, head_dim]`), times `factor`, as
/// `total [tokens, heads / group, head_dim]`, adding up the heads of each group.
fn gather_heads<E: Element>(
    spans: &[Range<usize>],
    per_head: &[f32],
    (heads, group): (usize, usize),
    head_dim: usize,
    factor: f32,
    total: &mut [E],
) {
    let width = heads / group * head_dim;
    let mut jobs = Vec::with_capacity(spans.len());
    let (mut rest, mut token, mut offset) = (total, 0, 0);
    for span in spans {
        split_off(&mut rest, (span.start - token) * width).fill(E::ZERO);
        let of_span = &per_head[offset..][..span.len() * heads * head_dim];
        for first in (0..span.len()).step_by(GATHERED_ROWS) {
            let rows = GATHERED_ROWS.min(span.len() - first);
            jobs.push((split_off(&mut rest, rows * width), of_span, first, span.len()));
        }
        offset += span.len() * heads * head_dim;
        token = span.end;
    }
    rest.fill(E::ZERO);
    each(jobs, |(total, per_head, first, tokens)| {
        for (token, row) in (first..).zip(total.chunks_exact_mut(width)) {
            for (row, first_head) in row.chunks_exact_mut(head_dim).zip((0..heads).step_by(group)) {
                let parts = &per_head[(first_head * tokens + token) * head_dim..];
                sum_heads(parts, group, tokens * head_dim, factor, row);
            }
        }
    });
}
