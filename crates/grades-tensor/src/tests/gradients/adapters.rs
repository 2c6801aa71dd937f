//! Low-rank adapters.

use super::super::exclusive;
use super::{Inputs, check, values};
use crate::device::DeviceRef;
use crate::ops::{self, LowRank, Scale};
use crate::tape::Leaf;
use crate::tensor::Tensor;

fn leaf(parameters: &[Tensor], slot: usize) -> Leaf {
    Leaf::tracked(parameters[slot].clone(), slot)
}

/// Lengths of rows.
fn norms(device: DeviceRef, count: usize) -> Tensor {
    device.from_host(values(8, count).iter().map(|value| value + 2.0).collect(), [1, count])
}

#[test]
fn add_low_rank() {
    let _counters = exclusive();
    // y, x; A of ranks 2 and 3, B of 4 and 2 rows; the columns between them belong to a layer without an adapter.
    let inputs = Inputs::of(&[[3, 9], [3, 5]], &[[2, 5], [3, 5], [4, 2], [2, 3]]);
    check("add_low_rank", &inputs, |tape, v, p| {
        let (a, b) = (vec![leaf(p, 0), leaf(p, 1)], vec![leaf(p, 2), leaf(p, 3)]);
        ops::add_low_rank(tape, v[0].clone(), &v[1], LowRank { a, b, firsts: vec![0, 7], scaling: 0.7 })
    });
    check("add_low_rank of rank 1", &Inputs::of(&[[2, 1], [2, 3]], &[[1, 3], [1, 1]]), |tape, v, p| {
        let adapters = LowRank { a: vec![leaf(p, 0)], b: vec![leaf(p, 1)], firsts: vec![0], scaling: -1.5 };
        ops::add_low_rank(tape, v[0].clone(), &v[1], adapters)
    });
}

/// Of each adapter another half trains.
#[test]
fn add_low_rank_in_part() {
    let _counters = exclusive();
    let inputs = Inputs::of(&[[3, 6], [3, 5]], &[[2, 5], [2, 3]]);
    check("add_low_rank in part", &inputs, |tape, v, p| {
        let constant = |seed, shape: [usize; 2]| {
            Leaf::constant(v[0].value.device().from_host(values(seed, shape[0] * shape[1]), shape))
        };
        let (a, b) = (vec![constant(9, [3, 5]), leaf(p, 0)], vec![leaf(p, 1), constant(10, [4, 2])]);
        ops::add_low_rank(tape, v[0].clone(), &v[1], LowRank { a, b, firsts: vec![4, 0], scaling: 0.7 })
    });
}

/// An adapter and the projection beside it, of one input: their gradients meet there.
#[test]
fn projection_with_an_adapter_beside_it() {
    let _counters = exclusive();
    let inputs = Inputs::of(&[[3, 5]], &[[4, 5], [2, 5], [2, 5], [4, 2], [2, 2]]);
    check("adapter beside a projection", &inputs, |tape, v, p| {
        // The second A is the second weight too: the gradients of both uses are added in its slot.
        let y = ops::project(tape, &v[0], &[leaf(p, 0), leaf(p, 1)], &[], None);
        let (a, b) = (vec![leaf(p, 2), leaf(p, 1)], vec![leaf(p, 3), leaf(p, 4)]);
        ops::add_low_rank(tape, y, &v[0], LowRank { a, b, firsts: vec![0, 4], scaling: 0.7 })
    });
}

#[test]
fn rescale() {
    let _counters = exclusive();
    let scales = |device, p: &[Tensor]| {
        let adapted = |slot, count| Scale::Adapted { magnitude: leaf(p, slot), norms: norms(device, count) };
        vec![adapted(0, 4), Scale::Plain(2), adapted(1, 3)]
    };
    check("rescale, plain", &Inputs::of(&[[3, 9]], &[[1, 4], [1, 3]]), |tape, v, p| {
        ops::rescale(tape, v[0].clone(), scales(v[0].value.device(), p), &[], None)
    });
    // A fused bias whose ends train apart, and another.
    let inputs = Inputs::of(&[[3, 9], [3, 9]], &[[1, 4], [1, 3], [1, 2], [1, 3], [1, 1]]);
    check("rescale", &inputs, |tape, v, p| {
        let device = v[0].value.device();
        let fused = [p[2].to_host().into_owned(), values(9, 3), p[4].to_host().into_owned()].concat();
        let fused = Leaf { value: device.from_host(fused, [1, 6]), tracked: vec![(0..2, 2), (5..6, 4)] };
        ops::rescale(tape, v[0].clone(), scales(device, p), &[fused, leaf(p, 3)], Some(&v[1]))
    });
}

/// DoRA whole: y = (x · Wᵀ + s · x · Aᵀ · Bᵀ) · m / ‖W + s · B · A‖ + b + residual, the norms constant.
#[test]
fn an_adapter_with_magnitudes() {
    let _counters = exclusive();
    let inputs = Inputs::of(&[[3, 5], [3, 4]], &[[2, 5], [4, 2], [1, 4], [1, 4]]);
    check("adapter with magnitudes", &inputs, |tape, v, p| {
        let device = v[0].value.device();
        let weight = Leaf::constant(device.from_host(values(9, 20), [4, 5]));
        let y = ops::project(tape, &v[0], &[weight], &[], None);
        let adapters = LowRank { a: vec![leaf(p, 0)], b: vec![leaf(p, 1)], firsts: vec![0], scaling: 0.7 };
        let y = ops::add_low_rank(tape, y, &v[0], adapters);
        let scale = Scale::Adapted { magnitude: leaf(p, 2), norms: norms(device, 4) };
        ops::rescale(tape, y, vec![scale], &[leaf(p, 3)], Some(&v[1]))
    });
}
