//! Linear layers and the embedding.

use std::sync::Arc;

use super::super::{ACTIVATIONS, exclusive};
use super::{Inputs, check};
use crate::ops;
use crate::tape::Leaf;
use crate::tensor::Tensor;

/// Leaves that train whole, with slots from `first` on.
fn leaves(tensors: &[Tensor], first: usize) -> Vec<Leaf> {
    (first..).zip(tensors).map(|(slot, tensor)| Leaf::tracked(tensor.clone(), slot)).collect()
}

/// The parts below one another.
fn stacked(parts: &[&Tensor]) -> Tensor {
    let mut all = parts[0].clone();
    parts[1..].iter().for_each(|part| all.device().append_rows(&mut all, part));
    all
}

/// The vectors side by side.
fn joined(parts: &[&Tensor]) -> Tensor {
    let all = parts.iter().flat_map(|part| part.to_host().into_owned()).collect::<Vec<_>>();
    let width = all.len();
    parts[0].device().from_host(all, [1, width])
}

#[test]
fn project() {
    let _counters = exclusive();
    let inputs = Inputs::of(&[[3, 4], [3, 7]], &[[5, 4], [2, 4], [1, 5], [1, 2]]);
    check("project", &inputs, |tape, v, p| {
        ops::project(tape, &v[0], &leaves(&p[..2], 0), &leaves(&p[2..], 2), Some(&v[1]))
    });
    check("project of three, plain", &Inputs::of(&[[2, 3]], &[[1, 3], [2, 3], [4, 3]]), |tape, v, p| {
        ops::project(tape, &v[0], &leaves(p, 0), &[], None)
    });
    check("project of one element", &Inputs::of(&[[1, 1]], &[[1, 1], [1, 1]]), |tape, v, p| {
        ops::project(tape, &v[0], &leaves(&p[..1], 0), &leaves(&p[1..], 1), None)
    });
}

/// A weight of several layers in one, whose parts and their biases train apart, or not.
#[test]
fn project_by_a_fused_weight() {
    let _counters = exclusive();
    // Rows 0..2 and 5..6 of one weight of 6 train, then all 3 of another; the biases likewise.
    let inputs = Inputs::of(&[[4, 5]], &[[2, 5], [1, 5], [3, 5], [1, 2], [1, 1], [1, 3]]);
    check("project by a fused weight", &inputs, |tape, v, p| {
        let device = v[0].value.device();
        let constant = device.from_host(super::values(9, 15), [3, 5]);
        let weight = Leaf { value: stacked(&[&p[0], &constant, &p[1]]), tracked: vec![(0..2, 0), (5..6, 1)] };
        let constant = device.from_host(super::values(10, 3), [1, 3]);
        let bias = Leaf { value: joined(&[&p[3], &constant, &p[4]]), tracked: vec![(0..2, 3), (5..6, 4)] };
        let (weights, biases) = ([weight, leaves(&p[2..3], 2).remove(0)], [bias, leaves(&p[5..], 5).remove(0)]);
        ops::project(tape, &v[0], &weights, &biases, None)
    });
}

/// Its own residual, and the input of two layers: what meets in a value is added.
#[test]
fn a_value_that_is_used_twice() {
    let _counters = exclusive();
    check("project onto its input", &Inputs::of(&[[3, 4]], &[[4, 4]]), |tape, v, p| {
        ops::project(tape, &v[0], &leaves(p, 0), &[], Some(&v[0]))
    });
    check("two layers of one input and one weight", &Inputs::of(&[[3, 4]], &[[4, 4], [1, 4]]), |tape, v, p| {
        let (weight, scale) = (leaves(&p[..1], 0), Leaf::tracked(p[1].clone(), 1));
        let normed = ops::rms_norm(tape, &v[0], &scale, 1e-3, crate::Dtype::F32);
        let first = ops::project(tape, &normed, &weight, &[], Some(&v[0]));
        let second = ops::project(tape, &first, &weight, &[], Some(&normed));
        ops::project(tape, &normed, &weight, &[], Some(&second))
    });
}

#[test]
fn gated_project() {
    let _counters = exclusive();
    for activation in ACTIVATIONS {
        check("gated_project", &Inputs::of(&[[3, 4]], &[[5, 4], [5, 4]]), |tape, v, p| {
            let [gate, up] = [0, 1].map(|slot| Leaf::tracked(p[slot].clone(), slot));
            ops::gated_project(tape, &v[0], &[gate, up], activation)
        });
    }
    check("gated_project to one column", &Inputs::of(&[[3, 4]], &[[1, 4]]), |tape, v, p| {
        let gate = Leaf::constant(v[0].value.device().from_host(super::values(9, 4), [1, 4]));
        ops::gated_project(tape, &v[0], &[gate, Leaf::tracked(p[0].clone(), 0)], ACTIVATIONS[0])
    });
}

#[test]
fn embed() {
    let _counters = exclusive();
    let ids = Arc::new(vec![4, 1, 4, 0]);
    check("embed", &Inputs::of(&[], &[[6, 3]]), |tape, _, p| {
        ops::embed(tape, &Leaf::tracked(p[0].clone(), 0), ids.clone())
    });
}

#[test]
fn rows_in_the_place_of_others() {
    let _counters = exclusive();
    let rows = Arc::new(vec![4, 0, 3]);
    check("replace_rows", &Inputs::of(&[[5, 2], [3, 2]], &[]), |tape, v, _| {
        ops::replace_rows(tape, v[0].clone(), rows.clone(), &v[1])
    });
    // Of the rows that are replaced an embedding has no gradient.
    let ids = Arc::new(vec![4, 1, 4, 0, 2]);
    check("replace_rows of an embedding", &Inputs::of(&[[3, 3]], &[[6, 3]]), |tape, v, p| {
        let x = ops::embed(tape, &Leaf::tracked(p[0].clone(), 0), ids.clone());
        ops::replace_rows(tape, x, rows.clone(), &v[0])
    });
}

#[test]
fn rows_side_by_side_and_mixed() {
    let _counters = exclusive();
    check("side_by_side", &Inputs::of(&[[6, 2]], &[]), |tape, v, _| ops::side_by_side(tape, v[0].clone(), 3));
    check("mix_rows", &Inputs::of(&[], &[[5, 3]]), |tape, _, p| {
        let weights = p[0].device().from_host(super::values(9, 20), [4, 5]);
        ops::mix_rows(tape, weights, &Leaf::tracked(p[0].clone(), 0))
    });
    check("add", &Inputs::of(&[[3, 2], [3, 2]], &[]), |tape, v, _| ops::add(tape, v[0].clone(), &v[1]));
}
