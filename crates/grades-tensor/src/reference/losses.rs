//! The head of a language model, with all logits of a row at once.

use super::memory::{Reference, build, row};
use super::projections::dot;
use crate::device::Losses;
use crate::dtype::Dtype;
use crate::spec::{CrossEntropySpec, IGNORE_INDEX, Label};
use crate::tensor::Tensor;

/// `log softmax(hidden · Wᵀ)` of one row.
fn log_probabilities(hidden: &Tensor, weight: &Tensor, of: usize) -> Vec<f64> {
    let logits: Vec<f64> = (0..weight.rows()).map(|token| dot(row(hidden, of), row(weight, token))).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
    logits.into_iter().map(|logit| logit - log_sum).collect()
}

impl Losses for Reference {
    fn cross_entropy(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        spec: &CrossEntropySpec,
        want_hidden: bool,
        want_weight: bool,
    ) -> (Tensor, Option<Tensor>, Option<Tensor>) {
        let mut loss = 0.0;
        // The gradients of the logits of each row that has a target.
        let mut dlogits: Vec<Option<Vec<f64>>> = vec![None; hidden.rows()];
        for (i, &target) in spec.targets.iter().enumerate().filter(|(_, target)| **target != IGNORE_INDEX) {
            let (logs, scale) = (log_probabilities(hidden, weight, i), f64::from(spec.scale.of(i)));
            loss -= scale * logs[target as usize];
            let mut of_row: Vec<f64> = logs.iter().map(|log| scale * log.exp()).collect();
            of_row[target as usize] -= scale;
            dlogits[i] = Some(of_row);
        }
        let dlogit = |i: usize, token: usize| dlogits[i].as_ref().map_or(0.0, |of_row| of_row[token]);
        let dhidden = || {
            build(hidden.shape(), hidden.dtype(), |i, j| {
                (0..weight.rows()).map(|token| dlogit(i, token) * f64::from(row(weight, token)[j])).sum()
            })
        };
        let dweight = || {
            build(weight.shape(), Dtype::F32, |token, j| {
                (0..hidden.rows()).map(|i| dlogit(i, token) * f64::from(row(hidden, i)[j])).sum()
            })
        };
        let loss = build([1, 1], Dtype::F32, |_, _| loss);
        (loss, want_hidden.then(dhidden), want_weight.then(dweight))
    }

    fn log_likelihoods(&self, hidden: &Tensor, weight: &Tensor, labels: &[Label]) -> Tensor {
        build([1, labels.len()], Dtype::F32, |_, i| {
            log_probabilities(hidden, weight, labels[i].row as usize)[labels[i].token as usize]
        })
    }
}
