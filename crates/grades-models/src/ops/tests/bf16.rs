//! The overrides on bf16 numbers equal the default bodies, which compute in f32 from the same numbers, within the rounding
//! of a product's operands and of the result.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;

use super::{
    attention, check_cross_entropy, packed, random, read, relative_error, rope, tensor, values, weight_gradient,
};
use crate::ops::{Activation, AttentionSpec, CrossEntropySpec, IGNORE, Ops, Precision, Tensors, stock};

/// Weights are rounded to bf16 (2⁻⁹ of each at most), sums are f32, results rounded once more.
const TOLERANCE: f64 = 4e-3;

fn short(x: FlexTensor) -> FlexTensor {
    <Flex as Ops>::in_precision(x, Precision::Bf16)
}

#[track_caller]
fn assert_same(what: &str, found: FlexTensor, expected: FlexTensor) {
    assert_eq!(found.dtype(), expected.dtype(), "{what}: numbers");
    let ((found_shape, found), (expected_shape, expected)) = (read(found), read(expected));
    assert_eq!(found_shape, expected_shape, "{what}: shape");
    let error = relative_error(&found, &expected);
    assert!(error < TOLERANCE, "{what} differs by {error:.2e}");
}

fn list(tensors: impl IntoIterator<Item = FlexTensor>) -> Tensors<Flex> {
    Tensors(tensors.into_iter().collect())
}

#[test]
fn project() {
    let sizes: [(usize, usize, &[usize]); 4] =
        [(1, 7, &[5]), (3, 6, &[4, 2, 3]), (13, 33, &[17, 8, 8]), (70, 66, &[67, 50])];
    for (tokens, width, outs) in sizes {
        let total: usize = outs.iter().sum();
        let x = short(random(1, tokens, width));
        let weights = list(outs.iter().enumerate().map(|(i, &out)| random(10 + i as u64, out, width)));
        for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
            let biases = outs.iter().enumerate().map(|(i, &out)| random(20 + i as u64, 1, out));
            let biases = if with_bias { list(biases) } else { list([]) };
            let residual = list(with_residual.then(|| random(30, tokens, total)));
            let found = <Flex as Ops>::project(x.clone(), weights.clone(), biases.clone(), residual.clone());
            assert_eq!(found.dtype(), if with_residual { DType::F32 } else { DType::BF16 });
            let expected = stock::project::<Flex>(x.clone(), weights.clone(), biases, residual);
            assert_same(&format!("{outs:?}, bias {with_bias}, residual {with_residual}"), found, expected);
        }
        let dy = short(random(2, tokens, total));
        let found = <Flex as Ops>::project_input_gradient(dy.clone(), weights.clone());
        let expected = stock::project_input_gradient::<Flex>(dy.clone(), weights.clone());
        assert_same("input gradient", found, expected);
        let onto = short(random(3, tokens, width));
        let found = <Flex as Ops>::project_input_gradient_onto(dy.clone(), weights.clone(), onto.clone());
        // In f32 up to the one rounding of the sum.
        let wide = |x: FlexTensor| <Flex as Ops>::in_precision(x, Precision::F32);
        let product = stock::project_input_gradient::<Flex>(wide(dy.clone()), weights.clone());
        let expected = short(<Flex as FloatTensorOps<Flex>>::float_add(wide(onto), product));
        assert_same("onto another", found, expected);
        let mut first = 0;
        for &rows in outs {
            let found = weight_gradient(dy.clone(), x.clone(), first..first + rows);
            let expected = stock::project_weight_gradient::<Flex>(dy.clone(), x.clone(), first..first + rows);
            assert_eq!(found.dtype(), DType::F32);
            assert_same("weight gradient", found, expected);
            // The same x as columns of a wider tensor.
            if first == 0 {
                let view = stock::columns::<Flex>(short(random(4, tokens, width + 5)), 3, width);
                let found = weight_gradient(dy.clone(), view.clone(), first..first + rows);
                let expected = stock::project_weight_gradient::<Flex>(dy.clone(), view, first..first + rows);
                assert_same("weight gradient of a view", found, expected);
            }
            first += rows;
        }
    }
}

#[test]
fn rms_norm() {
    for (rows, width) in [(1, 7), (5, 33), (67, 100)] {
        let (x, scale, dy) = (random(1, rows, width), random(2, 1, width), short(random(3, rows, width)));
        let (y, inverse) = <Flex as Ops>::rms_norm_forward(x.clone(), scale.clone(), 1e-3, Precision::Bf16);
        let (expected, expected_inverse) = stock::rms_norm_forward::<Flex>(x.clone(), scale.clone(), 1e-3);
        assert_same("norm", y, short(expected));
        assert_same("inverse", inverse.clone(), expected_inverse);
        let arguments = || (dy.clone(), x.clone(), scale.clone(), inverse.clone());
        let (dy, x, scale, inverse) = arguments();
        let found = <Flex as Ops>::rms_norm_backward(dy, x, scale, inverse, true);
        let (dy, x, scale, inverse) = arguments();
        let expected = stock::rms_norm_backward::<Flex>(dy, x, scale, inverse, true);
        assert_same("dx", found.0, expected.0);
        assert_same("dscale", found.1.unwrap(), expected.1.unwrap());
    }
}

#[test]
fn self_attention_and_its_gradient() {
    for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 2, 6), (3, 1, 70)] {
        for window in [None, Some(3)] {
            let spec = attention(heads, kv_heads, head_dim, packed(&[4, 1, 17]));
            let spec = AttentionSpec { window, rope: Some(rope(head_dim)), ..spec };
            let qkv = short(random(1, 22, spec.query_width() + 2 * spec.key_width()));
            let (q, k, v) = <Flex as Ops>::split_heads(qkv.clone(), spec.clone());
            let expected = stock::split_heads::<Flex>(qkv, &spec);
            for (found, expected) in [(&q, expected.0), (&k, expected.1), (&v, expected.2)] {
                assert_same("split", found.clone(), expected);
            }
            let (out, lse) = <Flex as Ops>::attend(q.clone(), k.clone(), v.clone(), spec.clone());
            let (expected_out, expected_lse) = stock::attend::<Flex>(q.clone(), k.clone(), v.clone(), &spec);
            assert_same(&format!("output of {spec:?}"), out.clone(), expected_out);
            assert_same("log-sum-exp", lse.clone(), expected_lse);
            let dout = short(random(4, 22, spec.query_width()));
            let arguments = || (dout.clone(), q.clone(), k.clone(), v.clone(), out.clone(), lse.clone());
            let (dout, q, k, v, out, lse) = arguments();
            let found = <Flex as Ops>::attend_backward(dout, q, k, v, out, lse, spec.clone());
            let (dout, q, k, v, out, lse) = arguments();
            let expected = stock::attend_backward::<Flex>(dout, q, k, v, out, lse, &spec);
            assert_same("dq", found.0.clone(), expected.0);
            assert_same("dk", found.1.clone(), expected.1);
            assert_same("dv", found.2.clone(), expected.2);
            let (dq, dk, dv) = found;
            let joined = <Flex as Ops>::join_heads(dq.clone(), dk.clone(), dv.clone(), spec.clone());
            assert_same("joined", joined, stock::join_heads::<Flex>(dq, dk, dv, &spec));
        }
    }
}

#[test]
fn gated_activation() {
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for (rows, width) in [(1, 1), (1, 5), (9, 33)] {
            let gate_up = values(1, rows * 2 * width).iter().map(|v| 6.0 * v).collect();
            let (gate_up, dy) = (short(tensor(gate_up, rows, 2 * width)), short(random(2, rows, width)));
            let found = <Flex as Ops>::gated_activation(gate_up.clone(), activation);
            assert_same("value", found, stock::gated_activation::<Flex>(gate_up.clone(), activation));
            let found = <Flex as Ops>::gated_activation_backward(dy.clone(), gate_up.clone(), activation);
            assert_same("gradient", found, stock::gated_activation_backward::<Flex>(dy, gate_up, activation));
        }
    }
}

#[test]
fn gated_project() {
    for (tokens, width, out) in [(1, 7, 5), (13, 34, 17), (70, 64, 97)] {
        let x = short(random(1, tokens, width));
        let weights = list([random(2, out, width), random(3, out, width)]);
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let joined = <Flex as Ops>::project(x.clone(), weights.clone(), list([]), list([]));
            let expected = <Flex as Ops>::gated_activation(joined.clone(), activation);
            let (y, kept) = <Flex as Ops>::gated_project_forward(x.clone(), weights.clone(), activation);
            assert_same("what is kept", kept, joined);
            assert_same("value", y, expected.clone());
            let found = <Flex as Ops>::gated_project(x.clone(), weights.clone(), activation);
            assert_same("value alone", found, expected);
        }
    }
}

#[test]
fn cross_entropy() {
    for (vocabulary, width, targets) in [
        (11, 8, vec![3, IGNORE, 10, 0, IGNORE]),
        (301, 33, (0..67).map(|i| i * 4).collect()),
        (5, 4, vec![IGNORE, IGNORE]),
    ] {
        let (hidden, weight) = (short(random(1, targets.len(), width)), random(2, vocabulary, width));
        let spec = CrossEntropySpec { targets: Arc::new(targets), scale: 0.37 };
        check_cross_entropy(&hidden, &weight, &spec, assert_same);
    }
}
