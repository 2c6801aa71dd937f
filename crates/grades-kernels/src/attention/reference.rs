//! Attention as plain loops in f64: what the blockwise one is compared with.

use super::form::Attention;
use super::segment::Segment;

/// What [`super::attention_new`] gives as its output, with all scores of a row at once.
pub(super) fn attention(attention: &Attention, segments: &[Segment], q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let mut out = vec![0.0; q.len()];
    for segment in segments {
        let past = segment.keys.len() - segment.queries.len();
        for (i, query) in segment.queries.clone().enumerate() {
            let i = past + i;
            for head in 0..heads {
                let q_start = (query * heads + head) * head_dim;
                let q = &q[q_start..q_start + head_dim];
                let mut weights = Vec::new();
                for (j, key) in segment.keys.clone().enumerate() {
                    let hidden = attention.causal && j > i
                        || attention.window.is_some_and(|window| j + window <= i || j >= i + window);
                    if !hidden {
                        let start = (key * kv_heads + head * kv_heads / heads) * head_dim;
                        let score: f64 = q.iter().zip(&k[start..]).map(|(q, k)| q * k).sum();
                        weights.push((start, (score * f64::from(attention.scale)).exp()));
                    }
                }
                let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                for (start, weight) in weights {
                    for d in 0..head_dim {
                        out[q_start + d] += weight / total * v[start + d];
                    }
                }
            }
        }
    }
    out
}
