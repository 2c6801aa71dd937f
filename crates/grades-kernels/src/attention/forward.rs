//! The forward pass.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::native;
use super::one_query::attend_one;
use super::pack::{Layout, Packed};
use super::segment::Spans;
use super::{Attention, BLOCK_KEYS, BLOCK_QUERIES, Segment, segment};
use crate::Element;
use crate::dispatch::multiversion;
use crate::gemm::{Matrix, MatrixMut, banded};
use crate::math::{exp, max, mul_add, sum};
use crate::memory::written;
use crate::threads::each_with;

/// Attention of `q [query tokens, heads, head_dim]` over `k` and `v [key tokens, kv_heads, head_dim]`, into
/// `out [query tokens, heads, head_dim]`; keeps ln Σ exp of every row of scores in
/// `log_sum_exp [query tokens, heads]`. Tokens outside all segments get zeros.
///
/// The queries of the segments must be in order and apart; their keys may lie anywhere (also in a cache).
///
/// # Panics
/// If a length or a segment does not fit.
pub fn attention<E: Element>(
    attention: &Attention,
    segments: &[Segment],
    q: &[E],
    k: &[E],
    v: &[E],
    out: &mut [E],
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

    #[cfg(target_arch = "x86_64")]
    if let (Some(q), Some(k), Some(v)) = (E::as_bf16(q), E::as_bf16(k), E::as_bf16(v))
        && native::takes(attention)
        && let Some(out) = E::as_bf16_mut(out)
    {
        return native::attention(attention, segments, (q, k, v), out, log_sum_exp);
    }
    let packed = KeysAndValues {
        k: Packed::new(attention, segments, 2, k, Layout::Columns),
        v: Packed::new(attention, segments, 2, v, Layout::Rows),
    };
    each_block(
        attention,
        segments,
        (q, k, v),
        (out, log_sum_exp),
        || Scratch::new(attention),
        |scratch, segment, block| {
            let q = &q[block.queries.start * attention.query_width()..block.queries.end * attention.query_width()];
            attend(attention, segment, block, q, &packed, scratch);
        },
    );
}

/// Runs every block of queries: `attend` those of segments with several queries, numbered.
pub(super) fn each_block<E: Element, S>(
    attention: &Attention,
    segments: &[Segment],
    (q, k, v): (&[E], &[E], &[E]),
    (out, log_sum_exp): (&mut [E], &mut [f32]),
    init: impl Fn() -> S + Sync,
    attend: impl Fn(&mut S, (usize, &Segment), Block<E>) + Sync,
) {
    let (tokens, width) = (log_sum_exp.len() / attention.heads, attention.query_width());
    each_with(blocks(attention, segments, tokens, out, log_sum_exp), init, |scratch, block| {
        match block.segment.map(|index| (index, &segments[index])) {
            None => {
                block.out.fill(E::ZERO);
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

/// [`attention`] into new memory: the output, and ln Σ exp of each row of scores.
///
/// # Panics
/// If a length or a segment does not fit.
#[must_use]
pub fn attention_new<E: Element>(
    form: &Attention,
    segments: &[Segment],
    q: &[E],
    k: &[E],
    v: &[E],
) -> (Vec<E>, Vec<f32>) {
    let mut log_sum_exp = vec![0.0; q.len() / form.head_dim.max(1)];
    // SAFETY: the kernel writes the output of every token, from its inputs alone, or panics.
    let out = unsafe { written(q.len(), |out| attention(form, segments, q, k, v, out, &mut log_sum_exp)) };
    (out, log_sum_exp)
}

/// Keys transposed, values as rows.
struct KeysAndValues {
    k: Packed,
    v: Packed,
}

/// Consecutive queries of one segment, or tokens of none, and where their results go.
pub(super) struct Block<'a, E> {
    /// The segment's number.
    pub(super) segment: Option<usize>,
    pub(super) queries: Range<usize>,
    pub(super) out: &'a mut [E],
    pub(super) log_sum_exp: &'a mut [f32],
}

/// Cuts the tokens into blocks of at most [`BLOCK_QUERIES`] that do not cross a segment's end.
fn blocks<'a, E>(
    attention: &Attention,
    segments: &[Segment],
    tokens: usize,
    mut out: &'a mut [E],
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

struct Scratch {
    /// `[BLOCK_QUERIES, head_dim]`: the scaled queries of one head.
    q: Vec<f32>,
    /// `[BLOCK_QUERIES, BLOCK_KEYS]`: scores, then probabilities.
    scores: Vec<f32>,
    /// `[BLOCK_QUERIES, head_dim]`: the weighted sum of values so far.
    sums: Vec<f32>,
}

impl Scratch {
    fn new(attention: &Attention) -> Self {
        Self {
            q: vec![0.0; BLOCK_QUERIES * attention.head_dim],
            scores: vec![0.0; BLOCK_QUERIES * BLOCK_KEYS],
            sums: vec![0.0; BLOCK_QUERIES * attention.head_dim],
        }
    }
}

/// One block of queries `q [queries, heads, head_dim]`, head by head.
fn attend<E: Element>(
    attention: &Attention,
    (index, segment): (usize, &Segment),
    block: Block<E>,
    q: &[E],
    packed: &KeysAndValues,
    scratch: &mut Scratch,
) {
    let Attention { heads, kv_heads, head_dim, scale, .. } = *attention;
    let rows = block.queries.len();
    let (q_head, sums) = (&mut scratch.q[..rows * head_dim], &mut scratch.sums[..rows * head_dim]);
    for head in 0..heads {
        let kv_head = head / (heads / kv_heads);
        copy_head(attention, q, head, scale, q_head);
        let mut running = [Running::NONE; BLOCK_QUERIES];
        sums.fill(0.0);
        for keys in segment.visible_blocks(attention, &block.queries) {
            let spans = Spans::new(attention, segment, &block.queries, &keys);
            let k = packed.k.block(index, segment, kv_head, &keys);
            let v = packed.v.block(index, segment, kv_head, &keys);
            let scores = &mut scratch.scores[..rows * k.columns()];
            let q = Matrix::new(q_head, rows, head_dim).strided();
            let scores_out = MatrixMut::new(scores, rows, k.columns());
            banded(q, k, scores_out, false, |rows| spans.scores(rows, head_dim));
            online_softmax(scores, 1.0, spans.of_rows(), &mut running[..rows], sums);
            let probabilities = Matrix::with_stride(scores, rows, keys.len(), k.columns()).strided();
            let sums_out = MatrixMut::new(sums, rows, head_dim);
            banded(probabilities, v, sums_out, true, |rows| spans.over_keys(rows, head_dim));
        }
        for (row, running) in running[..rows].iter().enumerate() {
            block.log_sum_exp[row * heads + head] = running.max + running.sum.ln();
            let factor = 1.0 / running.sum;
            let out = &mut block.out[(row * heads + head) * head_dim..][..head_dim];
            for (out, sum) in out.iter_mut().zip(&sums[row * head_dim..]) {
                *out = E::narrow(sum * factor);
            }
        }
    }
}

/// Copies one head of `source [rows, heads, head_dim]`, times `factor`, into `target [rows, head_dim]`.
pub(super) fn copy_head<E: Element>(attention: &Attention, source: &[E], head: usize, factor: f32, target: &mut [f32]) {
    let rows = source.chunks_exact(attention.query_width()).zip(target.chunks_exact_mut(attention.head_dim));
    for (source, target) in rows {
        scaled(&source[head * attention.head_dim..][..attention.head_dim], factor, target);
    }
}

/// Largest score of a row so far, and the sum of exp(score − max).
#[derive(Clone, Copy)]
pub(super) struct Running {
    pub(super) max: f32,
    pub(super) sum: f32,
}

impl Running {
    /// Of no score.
    pub(super) const NONE: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };
}

multiversion! {
    fn scaled<FMA; E: Element>(source: &[E], factor: f32, target: &mut [f32]) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = source.widen() * factor;
        }
    }

    /// Turns scores (rows of equal length, of which each sees one span), `scale` times, into exp(score − max) and 0 where
    /// unseen, and rescales the running `sums` (rows of `head_dim`) where the maximum grows.
    pub(super) fn online_softmax<FMA>(
        scores: &mut [f32], scale: f32, spans: &[(usize, usize)], running: &mut [Running], sums: &mut [f32],
    ) {
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
            let largest = max(seen) * scale;
            if largest > running.max {
                let shrink = exp::<FMA>(running.max - largest);
                running.max = largest;
                running.sum *= shrink;
                for sum in &mut sums[row * head_dim..][..head_dim] {
                    *sum *= shrink;
                }
            }
            for score in seen.iter_mut() {
                *score = exp::<FMA>(mul_add::<FMA>(*score, scale, -running.max));
            }
            running.sum += sum(seen);
        }
    }
}
