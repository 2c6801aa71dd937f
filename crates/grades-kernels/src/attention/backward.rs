//! The backward pass.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::form::{Attention, BLOCK_KEYS, BLOCK_QUERIES};
use super::head::{HeadGradients, copy_head};
#[cfg(target_arch = "x86_64")]
use super::native;
use super::pack::{Layout, Packed};
use super::saved::Saved;
use super::segment::{self, Segment, Spans};
use super::softmax::{RowTerms, along, softmax_backward};
use crate::Element;
use crate::dispatch::multiversion;
use crate::gemm::{Matrix, MatrixMut, banded};
use crate::threads::{each, each_with};
use crate::unwritten::{filled, written_each};

/// Gradients of [`super::attention_new`] from `dout [query tokens, heads, head_dim]`: `dq [query tokens, heads, head_dim]`,
/// `dk` and `dv [key tokens, kv_heads, head_dim]`, with zeros for tokens outside all segments.
///
/// The keys of the segments too must be in order and apart.
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
    attention.check();
    let tokens = saved.log_sum_exp.len() / attention.heads;
    assert_eq!(saved.log_sum_exp.len(), tokens * attention.heads);
    assert_eq!(saved.q.len(), tokens * attention.query_width());
    assert_eq!(saved.out.len(), saved.q.len());
    assert_eq!(dout.len(), saved.q.len());
    assert_eq!(saved.k.len() % attention.key_width(), 0);
    assert_eq!(saved.v.len(), saved.k.len());
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
            each_head(attention, segments, saved, dout, HeadGradients { dq, dk, dv });
        })
    };

    let query_spans: Vec<_> = segments.iter().map(|s| s.queries.clone()).collect();
    let key_spans: Vec<_> = segments.iter().map(|s| s.keys.clone()).collect();
    let groups = (heads, heads / attention.kv_heads);
    let gather = |[dq, dk, dv]: [&mut [MaybeUninit<E>]; 3]| {
        // The scores' gradients are those of scores with scaled queries.
        gather_heads(&query_spans, &dq_heads, (heads, 1), head_dim, attention.scale, dq);
        gather_heads(&key_spans, &dk_heads, groups, head_dim, 1.0, dk);
        gather_heads(&key_spans, &dv_heads, groups, head_dim, 1.0, dv);
    };
    // SAFETY: `gather_heads` writes all that it is given.
    unsafe { written_each([saved.q.len(), saved.k.len(), saved.k.len()], gather) }
}

/// The gradients of every head of queries by itself, into `[heads, tokens, head_dim]` for each segment; writes all of them.
fn each_head<E: Element>(
    attention: &Attention,
    segments: &[Segment],
    saved: Saved<E>,
    dout: &[E],
    gradients: HeadGradients<MaybeUninit<f32>>,
) {
    let (heads, head_dim) = (attention.heads, attention.head_dim);
    let HeadGradients { dq: mut dq_rest, dk: mut dk_rest, dv: mut dv_rest } = gradients;
    let mut jobs = Vec::with_capacity(segments.len() * heads);
    for (index, segment) in segments.iter().enumerate() {
        for head in 0..heads {
            let dq = split_off(&mut dq_rest, segment.queries.len() * head_dim);
            let dk = split_off(&mut dk_rest, segment.keys.len() * head_dim);
            let dv = split_off(&mut dv_rest, segment.keys.len() * head_dim);
            jobs.push((index, head, HeadGradients { dq, dk, dv }));
        }
    }
    #[cfg(target_arch = "x86_64")]
    let jobs = match (saved.as_bf16(), E::as_bf16(dout)) {
        (Some(saved), Some(dout)) if native::takes(attention) => {
            let (taken, others) = jobs.into_iter().partition(|job| native::takes_segment(&segments[job.0]));
            native::backward(attention, segments, saved, dout, taken);
            others
        }
        _ => jobs,
    };
    if !jobs.is_empty() {
        // The jobs are in the order of their segments.
        let wanted = |index: usize| jobs.binary_search_by_key(&index, |job| job.0).is_ok();
        let packed = KeysAndValues {
            k_columns: Packed::new(attention, segments, wanted, saved.k, Layout::Columns),
            k_rows: Packed::new(attention, segments, wanted, saved.k, Layout::Rows),
            v_columns: Packed::new(attention, segments, wanted, saved.v, Layout::Columns),
        };
        each_with(
            jobs,
            || Scratch::new(attention),
            |scratch, (index, head, gradients)| {
                let head = Head { index, segment: &segments[index], head, packed: &packed };
                head.backward(attention, &saved, dout, gradients.cleared(), scratch);
            },
        );
    }
}

fn split_off<'a, T>(rest: &mut &'a mut [T], count: usize) -> &'a mut [T] {
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
    /// Adds to `gradients` (of the scaled queries), which are zero.
    fn backward<E: Element>(
        &self,
        attention: &Attention,
        saved: &Saved<E>,
        dout: &[E],
        gradients: HeadGradients,
        scratch: &mut Scratch,
    ) {
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

/// Tokens of which a task gathers the heads.
const GATHERED_ROWS: usize = 32;
/// Elements that are summed at a time: a common size of a head.
const MAX_CHUNK: usize = 64;

multiversion! {
    /// The sum of `count` parts of `parts` as long as `total`, the first at the start and each `stride` after the one before,
    /// in their order, times `factor`.
    fn sum_heads<FMA; E: Element>(
        parts: &[f32], count: usize, stride: usize, factor: f32, total: &mut [MaybeUninit<E>],
    ) {
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
                total.write(E::narrow(*sum * factor));
            }
        }
    }
}

/// Writes per-head sums (for each span: `[heads, span, head_dim]`), times `factor`, as
/// `total [tokens, heads / group, head_dim]`, adding up the heads of each group; writes all of it.
fn gather_heads<E: Element>(
    spans: &[Range<usize>],
    per_head: &[f32],
    (heads, group): (usize, usize),
    head_dim: usize,
    factor: f32,
    total: &mut [MaybeUninit<E>],
) {
    let width = heads / group * head_dim;
    let mut jobs = Vec::with_capacity(spans.len());
    let (mut rest, mut token, mut offset) = (total, 0, 0);
    for span in spans {
        filled(split_off(&mut rest, (span.start - token) * width), E::ZERO);
        let of_span = &per_head[offset..][..span.len() * heads * head_dim];
        for first in (0..span.len()).step_by(GATHERED_ROWS) {
            let rows = GATHERED_ROWS.min(span.len() - first);
            jobs.push((split_off(&mut rest, rows * width), of_span, first, span.len()));
        }
        offset += span.len() * heads * head_dim;
        token = span.end;
    }
    filled(rest, E::ZERO);
    each(jobs, |(total, per_head, first, tokens)| {
        for (token, row) in (first..).zip(total.chunks_exact_mut(width)) {
            for (row, first_head) in row.chunks_exact_mut(head_dim).zip((0..heads).step_by(group)) {
                let parts = &per_head[(first_head * tokens + token) * head_dim..];
                sum_heads(parts, group, tokens * head_dim, factor, row);
            }
        }
    });
}
