//! The forward pass.

use std::mem::MaybeUninit;

use super::block::{Block, each_block};
use super::form::{Attention, BLOCK_KEYS, BLOCK_QUERIES};
use super::head::copy_head;
#[cfg(target_arch = "x86_64")]
use super::native;
use super::pack::{Layout, Packed};
use super::segment::{self, Segment, Spans};
use super::softmax::{Running, online_softmax};
use crate::Element;
use crate::gemm::{Matrix, MatrixMut, banded};
use crate::unwritten::written;

/// Attention of `q [query tokens, heads, head_dim]` over `k` and `v [key tokens, kv_heads, head_dim]`: the output
/// `[query tokens, heads, head_dim]`, and ln Σ exp of every row of scores, `[query tokens, heads]`. Tokens outside all
/// segments get zeros.
///
/// The queries of the segments must be in order and apart; their keys may lie anywhere (also in a cache).
///
/// # Panics
/// If a length or a segment does not fit.
#[must_use]
pub fn attention_new<E: Element>(
    attention: &Attention,
    segments: &[Segment],
    q: &[E],
    k: &[E],
    v: &[E],
) -> (Vec<E>, Vec<f32>) {
    attention.check();
    let tokens = q.len() / attention.query_width();
    assert_eq!(q.len(), tokens * attention.query_width());
    assert_eq!(k.len(), v.len());
    assert_eq!(k.len() % attention.key_width(), 0);
    segment::check(segments, tokens, k.len() / attention.key_width());
    let mut log_sum_exp = vec![0.0; tokens * attention.heads];
    // SAFETY: `attend_all` writes the output of every token.
    let out = unsafe { written(q.len(), |out| attend_all(attention, segments, (q, k, v), out, &mut log_sum_exp)) };
    (out, log_sum_exp)
}

/// Writes the output of every token; lengths and segments have been checked.
fn attend_all<E: Element>(
    attention: &Attention,
    segments: &[Segment],
    (q, k, v): (&[E], &[E], &[E]),
    out: &mut [MaybeUninit<E>],
    log_sum_exp: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if let (Some(q), Some(k), Some(v)) = (E::as_bf16(q), E::as_bf16(k), E::as_bf16(v))
        && native::takes(attention)
        && let Some(out) = E::as_bf16_mut(out)
    {
        let wanted = |index: usize| segments[index].queries.len() > 1 && !native::takes_segment(&segments[index]);
        let packed = KeysAndValues::new(attention, segments, (k, v), wanted);
        let init = || Scratch::new(attention);
        return native::attention(attention, segments, (q, k, v), out, log_sum_exp, init, |scratch, segment, block| {
            attend(attention, segment, block, q, &packed, scratch);
        });
    }
    let packed = KeysAndValues::new(attention, segments, (k, v), |index| segments[index].queries.len() > 1);
    each_block(
        attention,
        segments,
        (q, k, v),
        (out, log_sum_exp),
        || Scratch::new(attention),
        |scratch, segment, block| attend(attention, segment, block, q, &packed, scratch),
    );
}

/// Keys transposed, values as rows.
struct KeysAndValues {
    k: Packed,
    v: Packed,
}

impl KeysAndValues {
    fn new<E: Element>(
        attention: &Attention,
        segments: &[Segment],
        (k, v): (&[E], &[E]),
        wanted: impl Fn(usize) -> bool,
    ) -> Self {
        Self {
            k: Packed::new(attention, segments, &wanted, k, Layout::Columns),
            v: Packed::new(attention, segments, &wanted, v, Layout::Rows),
        }
    }
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

/// One block of the queries `q [tokens, heads, head_dim]`, head by head; writes all of its output.
fn attend<E: Element>(
    attention: &Attention,
    (index, segment): (usize, &Segment),
    block: Block<E>,
    q: &[E],
    packed: &KeysAndValues,
    scratch: &mut Scratch,
) {
    let q = &q[block.queries.start * attention.query_width()..block.queries.end * attention.query_width()];
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
            for (out, sum) in out.iter_mut().zip(&sums[row * head_dim..][..head_dim]) {
                out.write(E::narrow(sum * factor));
            }
        }
    }
}
