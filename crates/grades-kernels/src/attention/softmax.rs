//! The softmax of a block of scores, and its gradient.

use crate::Element;
use crate::dispatch::multiversion;
use crate::math::{dot, exp, max, mul_add, sum};

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

/// What the softmax of one row needs.
#[derive(Clone, Copy, Default)]
pub(super) struct RowTerms {
    pub(super) log_sum_exp: f32,
    /// Σ out·dout of the head, which is Σ probability · its gradient.
    pub(super) along: f32,
}

multiversion! {
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
