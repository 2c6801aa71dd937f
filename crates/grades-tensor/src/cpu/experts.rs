//! Routing tokens to experts.

use std::sync::Arc;

use grades_kernels::experts;

use super::processor::Cpu;
use super::values::{slice, tensor, vector, with_numbers};
use crate::device::Experts;
use crate::dispatch::{Dispatch, Routed};
use crate::tensor::Tensor;

impl Experts for Cpu {
    fn route(&self, logits: &Tensor, top_k: usize, normalise: bool) -> Routed {
        let [tokens, count] = logits.shape();
        let experts::Routes { probabilities, chosen, weights } = experts::route(slice(logits), count, top_k, normalise);
        Routed {
            probabilities: tensor(probabilities, [tokens, count]),
            weights: tensor(weights, [tokens, top_k]),
            chosen: Arc::new(chosen),
            normalise,
        }
    }

    fn route_backward(&self, dweights: &Tensor, routed: &Routed, slopes: &[f32]) -> Tensor {
        let Routed { probabilities, weights, chosen, normalise } = routed;
        let routes = (slice(probabilities), chosen.as_slice(), slice(weights));
        tensor(experts::route_backward(slice(dweights), routes, slopes, *normalise), probabilities.shape())
    }

    fn combine(&self, mut onto: Tensor, parts: &[Tensor], dispatch: &Dispatch, weights: &Tensor) -> Tensor {
        let (width, Some(first)) = (onto.columns(), parts.first()) else { return onto };
        with_numbers!(first, E => {
            let parts: Vec<&[E]> = parts.iter().map(slice).collect();
            experts::combine(vector(&mut onto, None), width, &parts, &dispatch.sources, slice(weights));
        });
        onto
    }

    fn combine_backward(
        &self,
        dy: &Tensor,
        parts: &[Tensor],
        dispatch: &Dispatch,
        weights: &Tensor,
    ) -> (Vec<Tensor>, Tensor) {
        let (dout, weights_of_all, width) = (slice(dy), slice::<f32>(weights), dy.columns());
        let mut dweights = vec![0.0; weights.len()];
        let dparts = dispatch.groups.iter().zip(parts).map(|(group, part)| {
            let of_rows: Vec<f32> = group.choices.iter().map(|&choice| weights_of_all[choice as usize]).collect();
            with_numbers!(part, E => {
                let (dpart, of_choices) =
                    experts::combine_backward::<E>(dout, width, slice(part), &group.tokens, &of_rows);
                for (&choice, dweight) in group.choices.iter().zip(of_choices) {
                    dweights[choice as usize] = dweight;
                }
                tensor(dpart, part.shape())
            })
        });
        (dparts.collect(), tensor(dweights, weights.shape()))
    }
}
