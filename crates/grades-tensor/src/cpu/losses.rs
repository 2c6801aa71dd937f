//! The head: one block of logits at a time.

use grades_kernels::cross_entropy::{self as head, Head, linear_cross_entropy_new, log_likelihood};

use super::processor::Cpu;
use super::projections::Weight;
use super::values::{matrix, slice, tensor, with_numbers};
use crate::device::Losses;
use crate::spec::{CrossEntropySpec, Label, LossScale};
use crate::tensor::Tensor;

impl Losses for Cpu {
    #[expect(clippy::expect_used, reason = "the targets of a batch are checked before it reaches a model")]
    fn cross_entropy(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        spec: &CrossEntropySpec,
        want_hidden: bool,
        want_weight: bool,
    ) -> (Tensor, Option<Tensor>, Option<Tensor>) {
        let of_head = Weight::of(weight);
        let scale = match &spec.scale {
            LossScale::Same(scale) => head::LossScale::Same(*scale),
            LossScale::Each(scales) => head::LossScale::Each(scales),
        };
        with_numbers!(hidden, E => {
            let head: Head<'_, E> = Head {
                hidden: slice(hidden),
                weight: of_head.rows(),
                labels: &spec.targets,
            };
            let (loss, dhidden, dweight) = linear_cross_entropy_new(head, scale, want_hidden, want_weight)
                .expect("targets within the vocabulary");
            let total = match &spec.scale {
                LossScale::Same(scale) => loss.sum * f64::from(*scale),
                LossScale::Each(scales) => {
                    scales.iter().zip(&loss.rows).map(|(&scale, &loss)| f64::from(scale) * f64::from(loss)).sum()
                }
            };
            let (dhidden, dweight) =
                (dhidden.map(|d| tensor(d, hidden.shape())), dweight.map(|d| tensor(d, weight.shape())));
            (tensor(vec![total as f32], [1, 1]), dhidden, dweight)
        })
    }

    #[expect(clippy::expect_used, reason = "the labels of a batch are checked before it reaches a model")]
    fn log_likelihoods(&self, hidden: &Tensor, weight: &Tensor, labels: &[Label]) -> Tensor {
        let of_head = Weight::of(weight);
        let scores = with_numbers!(hidden, E => log_likelihood(matrix::<E>(hidden), of_head.rows(), labels));
        let scores = scores.expect("labels within the vocabulary");
        let scores: Vec<f32> = scores.iter().map(|score| score.log_probability).collect();
        let shape = [1, scores.len()];
        tensor(scores, shape)
    }
}
