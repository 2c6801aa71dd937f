//! A single query over a cache, as in generation: bound by reading the keys and values, so each of them is read once
//! for all heads of its group.

use std::mem::MaybeUninit;

use super::form::Attention;
use super::segment::Segment;
use crate::Element;
use crate::dispatch::multiversion;
use crate::element::{convert, convert_into};
use crate::math::{dot, exp, max, mul_add, sum};
use crate::threads::each;

/// Attention of the one query of `segment`: `q` and `out [heads, head_dim]`, `log_sum_exp [heads]`; writes all of them.
pub(super) fn attend_one<E: Element>(
    attention: &Attention,
    segment: &Segment,
    q: &[E],
    k: &[E],
    v: &[E],
    out: &mut [MaybeUninit<E>],
    log_sum_exp: &mut [f32],
) {
    let (head_dim, key_width) = (attention.head_dim, attention.key_width());
    let group = attention.heads / attention.kv_heads;
    let visible = segment.visible(attention, segment.queries.start);
    let first_key = segment.keys.start + visible.start;
    let groups = q
        .chunks_exact(group * head_dim)
        .zip(out.chunks_exact_mut(group * head_dim))
        .zip(log_sum_exp.chunks_exact_mut(group))
        .enumerate();
    each(groups, |(kv_head, ((q, out), log_sum_exp))| {
        let start = first_key * key_width + kv_head * head_dim;
        let mut scores = vec![0.0; group * visible.len()];
        let mut queries = vec![0.0; q.len()];
        convert(q, &mut queries);
        score(&queries, &k[start.min(k.len())..], key_width, head_dim, &mut scores);
        softmax(&mut scores, attention.scale, log_sum_exp);
        let mut sums = vec![0.0; out.len()];
        weigh(&scores, &v[start.min(v.len())..], key_width, head_dim, &mut sums);
        convert_into(&sums, out);
    });
}

multiversion! {
    /// `scores [group, keys]` of `q [group, head_dim]` and keys that are `stride` apart.
    fn score<FMA; E: Element>(q: &[f32], k: &[E], stride: usize, head_dim: usize, scores: &mut [f32]) {
        let keys = scores.len() / (q.len() / head_dim);
        for key in 0..keys {
            let k = &k[key * stride..][..head_dim];
            for (q, scores) in q.chunks_exact(head_dim).zip(scores.chunks_exact_mut(keys)) {
                scores[key] = dot::<FMA>(q, k);
            }
        }
    }

    /// Adds to `out [group, head_dim]` the values, which are `stride` apart, each `weights [group, keys]` times.
    fn weigh<FMA; E: Element>(weights: &[f32], v: &[E], stride: usize, head_dim: usize, out: &mut [f32]) {
        let keys = weights.len() / (out.len() / head_dim);
        for key in 0..keys {
            let v = &v[key * stride..][..head_dim];
            for (weights, out) in weights.chunks_exact(keys).zip(out.chunks_exact_mut(head_dim)) {
                for (out, v) in out.iter_mut().zip(v) {
                    *out = mul_add::<FMA>(weights[key], v.widen(), *out);
                }
            }
        }
    }

    /// Softmax of each row of `scale · scores`, and the logarithm of its sum.
    fn softmax<FMA>(scores: &mut [f32], scale: f32, log_sum_exp: &mut [f32]) {
        let keys = scores.len() / log_sum_exp.len();
        for (scores, log_sum_exp) in scores.chunks_exact_mut(keys).zip(log_sum_exp) {
            for score in scores.iter_mut() {
                *score *= scale;
            }
            let largest = max(scores);
            for score in scores.iter_mut() {
                *score = exp::<FMA>(*score - largest);
            }
            let total = sum(scores);
            *log_sum_exp = largest + total.ln();
            let factor = 1.0 / total;
            for score in scores.iter_mut() {
                *score *= factor;
            }
        }
    }
}
