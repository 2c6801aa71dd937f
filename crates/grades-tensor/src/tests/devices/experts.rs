//! Routing tokens to experts.

use super::super::{random, values};
use super::{DTYPES, compare, moved, operand};
use crate::device::Experts;
use crate::dispatch::{Dispatch, Routed};
use crate::dtype::Dtype;
use crate::reference::REFERENCE;
use crate::tensor::Tensor;

/// Tokens, experts, and how many of these a token chooses.
const SIZES: [(usize, usize, usize); 5] = [(0, 3, 1), (1, 1, 1), (1, 5, 2), (9, 4, 4), (67, 33, 3)];

#[test]
fn route() {
    for (tokens, experts, top_k) in SIZES {
        for normalise in [false, true] {
            compare(Dtype::F32, &format!("{tokens} tokens, {top_k} of {experts}"), |device| {
                let logits = random(device, 1, [tokens, experts]);
                let Routed { probabilities, weights, chosen, .. } = device.route(&logits, top_k, normalise);
                let chosen = chosen.iter().map(|&expert| expert as f32).collect();
                vec![probabilities, weights, device.from_host(chosen, [tokens, top_k])]
            });
            let routed = REFERENCE.route(&random(&REFERENCE, 1, [tokens, experts]), top_k, normalise);
            let slopes = values(2, experts);
            compare(Dtype::F32, &format!("back, {tokens} tokens, {top_k} of {experts}"), |device| {
                let [probabilities, weights] = [&routed.probabilities, &routed.weights].map(|t| moved(t, device));
                let routed = Routed { probabilities, weights, chosen: routed.chosen.clone(), normalise };
                // Of a single expert nothing is left to choose, and its gradient is rounding.
                let gradient = device.route_backward(&random(device, 3, [tokens, top_k]), &routed, &slopes);
                if experts == 1 { vec![] } else { vec![gradient] }
            });
        }
    }
}

#[test]
fn combine() {
    for dtype in DTYPES {
        for (tokens, experts, top_k) in SIZES {
            for width in [1, 7, 33] {
                let chosen = REFERENCE.route(&random(&REFERENCE, 1, [tokens, experts]), top_k, false).chosen;
                let dispatch = Dispatch::new(&chosen, top_k, experts);
                compare(dtype, &format!("{tokens} tokens, {top_k} of {experts}, {width} wide"), |device| {
                    let part =
                        |(seed, group): (u64, &crate::Group)| operand(device, seed, [group.tokens.len(), width], dtype);
                    let parts: Vec<Tensor> = (10..).zip(&dispatch.groups).map(part).collect();
                    let [onto, dy] = [2, 3].map(|seed| random(device, seed, [tokens, width]));
                    let weights = random(device, 4, [tokens, top_k]);
                    let y = device.combine(onto, &parts, &dispatch, &weights);
                    let (dparts, dweights) = device.combine_backward(&dy, &parts, &dispatch, &weights);
                    [vec![y, dweights], dparts].concat()
                });
            }
        }
    }
}

#[test]
fn the_tokens_of_each_expert_lie_one_behind_another() {
    // Nobody chooses the third of four.
    let dispatch = Dispatch::new(&[1, 0, 3, 1, 0, 3], 2, 4);
    let groups: Vec<_> =
        dispatch.groups.iter().map(|group| (group.expert, (*group.tokens).clone(), group.choices.clone())).collect();
    assert_eq!(groups, [(0, vec![0, 2], vec![1, 4]), (1, vec![0, 1], vec![0, 3]), (3, vec![1, 2], vec![2, 5])]);
    assert_eq!(dispatch.sources, [[1, 0], [0, 0], [2, 0], [1, 1], [0, 1], [2, 1]]);
    assert!(Dispatch::new(&[], 2, 4).groups.is_empty());
}
