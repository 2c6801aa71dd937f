//! A single query over a cache, as in generation: bound by reading the keys and values, so each of them is read once
//! for all heads of its group.

use rayon::prelude::*;

use super::{Attention, Segment};
use crate::dispatch::multiversion;
use crate::gemm::{Band, Matrix, MatrixMut, banded};
use crate::math::{dot, exp, max, sum};

/// Attention of the one query of `segment`: `q` and `out [heads, head_dim]`, `log_sum_exp [heads]`.
pub(super) fn attend_one(
    attention: &Attention,
    segment: &Segment,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sum_exp: &mut [f32],
) {
    let (head_dim, key_width) = (attention.head_dim, attention.key_width());
    let group = attention.heads / attention.kv_heads;
    let visible = segment.visible(attention, segment.queries.start);
    let first_key = segment.keys.start + visible.start;
    q.par_chunks_exact(group * head_dim)
        .zip(out.par_chunks_exact_mut(group * head_dim))
        .zip(log_sum_exp.par_chunks_exact_mut(group))
        .enumerate()
        .for_each(|(kv_head, ((q, out), log_sum_exp))| {
            let start = first_key * key_width + kv_head * head_dim;
            let mut scores = vec![0.0; group * visible.len()];
            score(q, &k[start..], key_width, head_dim, &mut scores);
            softmax(&mut scores, attention.scale, log_sum_exp);
            let probabilities = Matrix::new(&scores, group, visible.len()).strided();
            let values = Matrix::with_stride(&v[start..], visible.len(), head_dim, key_width);
            banded(probabilities, values, MatrixMut::new(out, group, head_dim), false, |_| Band {
                inner: 0..visible.len(),
                columns: 0..head_dim,
            });
        });
}

multiversion! {
    /// `scores [group, keys]` of `q [group, head_dim]` and keys that are `stride` apart.
    fn score<FMA>(q: &[f32], k: &[f32], stride: usize, head_dim: usize, scores: &mut [f32]) {
        let keys = scores.len() / (q.len() / head_dim);
        for key in 0..keys {
            let k = &k[key * stride..][..head_dim];
            for (q, scores) in q.chunks_exact(head_dim).zip(scores.chunks_exact_mut(keys)) {
                scores[key] = dot::<FMA>(q, k);
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
