//! Routing tokens to experts.

use std::cmp::Reverse;
use std::sync::Arc;

use super::memory::{Reference, build, row, tensor, values};
use super::projections::dot;
use crate::device::Experts;
use crate::dispatch::{Dispatch, Routed};
use crate::dtype::Dtype;
use crate::tensor::Tensor;

impl Experts for Reference {
    fn route(&self, logits: &Tensor, top_k: usize, normalise: bool) -> Routed {
        let probabilities = build(logits.shape(), Dtype::F32, |i, j| {
            let exponential = |j: usize| f64::from(row(logits, i)[j]).exp();
            exponential(j) / (0..logits.columns()).map(exponential).sum::<f64>()
        });
        let tokens = logits.rows();
        let likeliest = |token: usize| {
            let mut experts: Vec<u32> = (0..logits.columns() as u32).collect();
            // Stable: of equally likely ones the first.
            experts.sort_by_key(|&expert| Reverse(row(&probabilities, token)[expert as usize].to_bits()));
            experts.truncate(top_k);
            experts
        };
        let chosen: Vec<u32> = (0..tokens).flat_map(likeliest).collect();
        let weights = build([tokens, top_k], Dtype::F32, |i, j| {
            let p = |choice: usize| f64::from(row(&probabilities, i)[chosen[i * top_k + choice] as usize]);
            p(j) / if normalise { (0..top_k).map(p).sum() } else { 1.0 }
        });
        Routed { probabilities, weights, chosen: Arc::new(chosen), normalise }
    }

    fn route_backward(&self, dweights: &Tensor, routed: &Routed, slopes: &[f32]) -> Tensor {
        let Routed { probabilities, weights, chosen, normalise } = routed;
        let top_k = weights.columns();
        let of_probability = |i: usize, expert: usize| {
            let chosen = &chosen[i * top_k..][..top_k];
            let choice = chosen.iter().position(|&chosen| chosen as usize == expert);
            let of_choice = choice.map_or(0.0, |choice| {
                let own = f64::from(row(dweights, i)[choice]);
                let p = |expert: &u32| f64::from(row(probabilities, i)[*expert as usize]);
                match normalise {
                    true => (own - dot(row(dweights, i), row(weights, i))) / chosen.iter().map(p).sum::<f64>(),
                    false => own,
                }
            });
            f64::from(slopes[expert]) + of_choice
        };
        build(probabilities.shape(), Dtype::F32, |i, j| {
            let p = |j: usize| f64::from(row(probabilities, i)[j]);
            let mean: f64 = (0..slopes.len()).map(|j| p(j) * of_probability(i, j)).sum();
            p(j) * (of_probability(i, j) - mean)
        })
    }

    fn combine(&self, onto: Tensor, parts: &[Tensor], dispatch: &Dispatch, weights: &Tensor) -> Tensor {
        let top_k = weights.columns();
        build(onto.shape(), Dtype::F32, |i, j| {
            let of_choice = |choice: usize| {
                let [part, source] = dispatch.sources[i * top_k + choice];
                f64::from(row(weights, i)[choice]) * f64::from(row(&parts[part as usize], source as usize)[j])
            };
            f64::from(row(&onto, i)[j]) + (0..top_k).map(of_choice).sum::<f64>()
        })
    }

    fn combine_backward(
        &self,
        dy: &Tensor,
        parts: &[Tensor],
        dispatch: &Dispatch,
        weights: &Tensor,
    ) -> (Vec<Tensor>, Tensor) {
        let dparts = dispatch.groups.iter().zip(parts).map(|(group, part)| {
            build(part.shape(), part.dtype(), |i, j| {
                let weight = values(weights)[group.choices[i] as usize];
                f64::from(weight) * f64::from(row(dy, group.tokens[i] as usize)[j])
            })
        });
        let of_choice = |(choice, [part, source]): (usize, &[u32; 2])| {
            dot(row(dy, choice / weights.columns()), row(&parts[*part as usize], *source as usize)) as f32
        };
        let dweights = dispatch.sources.iter().enumerate().map(of_choice).collect();
        (dparts.collect(), tensor(dweights, weights.shape(), Dtype::F32))
    }
}
