//! The gradients of every operation against finite differences, through autodiff as the models use it.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::{attention, exclusive, packed, relative_error, rope, values};
use crate::host;
use crate::ops::{self, Activation, AttentionSpec, CrossEntropySpec, Flops, IGNORE, Precision, executed_flops};

/// A tensor to differentiate in: its rows, columns and values.
type Input = (usize, usize, Vec<f32>);

fn input(seed: u64, rows: usize, columns: usize) -> Input {
    (rows, columns, values(seed, rows * columns))
}

fn tracked((rows, columns, values): &Input) -> Tensor<2> {
    let device = Device::default().autodiff();
    Tensor::from_data(TensorData::new(values.clone(), [*rows, *columns]), &device).require_grad()
}

/// The sum of an operation's output, each element with a weight of its own.
fn weighted(output: Tensor<2>) -> (Tensor<1>, f64) {
    let [rows, columns] = output.dims();
    let weights = values(77, rows * columns);
    let sum = host::read("output", &output, |found| {
        found.iter().zip(&weights).map(|(&f, &w)| f64::from(f) * f64::from(w)).sum()
    });
    let weights = Tensor::from_data(TensorData::new(weights, [rows, columns]), &output.device());
    ((output * weights).sum(), sum.unwrap())
}

fn check(what: &str, inputs: &[Input], operation: impl Fn(&[Tensor<2>]) -> Tensor<2>) {
    const STEP: f32 = 1e-2;
    let run = |inputs: &[Input]| {
        let tensors: Vec<Tensor<2>> = inputs.iter().map(tracked).collect();
        let (loss, value) = weighted(operation(&tensors));
        (loss, value, tensors)
    };
    let (loss, _, tensors) = run(inputs);
    let mut gradients = loss.backward();
    for (index, tensor) in tensors.iter().enumerate() {
        let gradient = tensor.grad_remove(&mut gradients).unwrap_or_else(|| panic!("{what}: no gradient {index}"));
        let found = host::read("gradient", &gradient, <[f32]>::to_vec).unwrap();
        let at = |element: usize, step: f32| {
            let mut moved = inputs.to_vec();
            moved[index].2[element] += step;
            run(&moved).1
        };
        let slope = |element| ((at(element, STEP) - at(element, -STEP)) / (2.0 * f64::from(STEP))) as f32;
        let expected: Vec<f32> = (0..found.len()).map(slope).collect();
        let error = relative_error(&found, &expected);
        assert!(error < 1e-3, "{what}: the gradient of input {index} differs by {error:.2e}");
    }
}

#[test]
fn project() {
    let _counters = exclusive();
    let inputs = [input(1, 3, 4), input(2, 5, 4), input(3, 2, 4), input(4, 1, 5), input(5, 1, 2), input(6, 3, 7)];
    check("project", &inputs, |t| {
        let (weights, biases) = (vec![t[1].clone(), t[2].clone()], vec![t[3].clone(), t[4].clone()]);
        ops::project(t[0].clone(), weights, biases, Some(t[5].clone()))
    });
    check("project of three, plain", &[input(1, 2, 3), input(2, 1, 3), input(3, 2, 3), input(4, 4, 3)], |t| {
        ops::project(t[0].clone(), t[1..].to_vec(), Vec::new(), None)
    });
}

#[test]
fn rms_norm() {
    let _counters = exclusive();
    check("rms_norm", &[input(1, 3, 5), input(2, 1, 5)], |t| {
        ops::rms_norm(t[0].clone(), t[1].clone(), 1e-3, Precision::F32)
    });
}

#[test]
fn self_attention() {
    let _counters = exclusive();
    let spec = attention(4, 2, 4, packed(&[1, 4, 2]));
    let qkv = [input(1, 7, 16 + 2 * 8)];
    for spec in [
        spec.clone(),
        AttentionSpec { rope: Some(rope(4)), ..spec.clone() },
        AttentionSpec { window: Some(2), rope: Some(rope(4)), ..spec.clone() },
        AttentionSpec { causal: false, ..spec },
    ] {
        check(&format!("{spec:?}"), &qkv, |t| ops::self_attention(t[0].clone(), spec.clone()));
    }
}

#[test]
fn gated_activation() {
    let _counters = exclusive();
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        check(&format!("{activation:?}"), &[input(1, 3, 10)], |t| ops::gated_activation(t[0].clone(), activation));
    }
}

#[test]
fn gated_project() {
    let _counters = exclusive();
    check("gated_project", &[input(1, 3, 4), input(2, 5, 4), input(3, 5, 4)], |t| {
        ops::gated_project(t[0].clone(), vec![t[1].clone(), t[2].clone()], Activation::Silu)
    });
}

#[test]
fn embed() {
    let _counters = exclusive();
    let ids = Arc::new(vec![4, 1, 4, 0]);
    check("embed", &[input(1, 6, 3)], |t| ops::embed(t[0].clone(), ids.clone(), None));
}

#[test]
fn cross_entropy() {
    let _counters = exclusive();
    let spec = CrossEntropySpec { targets: Arc::new(vec![2, IGNORE, 0, 6]), scale: 0.4 };
    check("cross_entropy", &[input(1, 4, 3), input(2, 7, 3)], |t| {
        ops::cross_entropy(t[0].clone(), t[1].clone(), spec.clone(), None).reshape([1, 1])
    });
}

#[test]
fn an_untracked_weight_has_no_gradient_and_costs_no_product() {
    let _counters = exclusive();
    let (tokens, width, outs) = (3, 5, [4, 2, 6]);
    let x = tracked(&input(1, tokens, width));
    let weights: Vec<Tensor<2>> = outs.iter().map(|&out| tracked(&input(out as u64, out, width))).collect();
    let products = |weights: &[Tensor<2>]| {
        let before = executed_flops();
        let y = ops::project(x.clone(), weights.to_vec(), Vec::new(), None);
        let mut gradients = y.sum().backward();
        let given: Vec<bool> =
            weights.iter().map(|w| w.is_require_grad() && w.grad_remove(&mut gradients).is_some()).collect();
        (executed_flops().since(&before), given)
    };
    let one = |out: usize| 2 * (tokens * width * out) as u64;
    let all = Flops { forward: one(12), input_gradient: one(12), weight_gradient: one(12) };
    assert_eq!(products(&weights), (all, vec![true, true, true]));
    let mut some = weights.clone();
    some[1] = some[1].clone().inner();
    assert_eq!(products(&some), (Flops { weight_gradient: one(10), ..all }, vec![true, false, true]));
    let none: Vec<_> = weights.into_iter().map(Tensor::inner).collect();
    assert_eq!(products(&none), (Flops { weight_gradient: 0, ..all }, vec![false; 3]));
}

#[test]
fn dropout() {
    let _counters = exclusive();
    let dropout = ops::Dropout { share: 0.4, key: [1, 2, 3, 4] };
    check("dropout", &[input(1, 5, 7)], |t| ops::dropout(t[0].clone(), dropout));
}

#[test]
fn add_low_rank() {
    let _counters = exclusive();
    // y, x, A of ranks 2 and 3, B of 4 and 2 rows; the columns between them belong to a layer without an adapter.
    let inputs = [input(1, 3, 9), input(2, 3, 5), input(3, 2, 5), input(4, 3, 5), input(5, 4, 2), input(6, 2, 3)];
    let spec = ops::LowRank { firsts: vec![0, 7], scale: 0.7, tie: None };
    check("add_low_rank", &inputs, |t| {
        ops::add_low_rank(t[0].clone(), t[1].clone(), t[2..4].to_vec(), t[4..6].to_vec(), spec.clone())
    });
}

/// An adapter and the projection beside it, of one input: the gradient of each comes through the tie.
#[test]
fn projection_with_an_adapter_beside_it() {
    let _counters = exclusive();
    let inputs = [input(1, 3, 5), input(2, 4, 5), input(3, 2, 5), input(4, 2, 5), input(5, 4, 2), input(6, 2, 2)];
    check("project_beside", &inputs, |t| {
        let tie = ops::Tie::default();
        let spec = ops::LowRank { firsts: vec![0, 4], scale: 0.7, tie: Some(tie.clone()) };
        let y = ops::project_beside(t[0].clone(), vec![t[1].clone(), t[3].clone()], Vec::new(), None, Some(tie));
        ops::add_low_rank(y, t[0].clone(), vec![t[2].clone(), t[3].clone()], t[4..6].to_vec(), spec)
    });
}
