//! Every override of the CPU backend equals the default body of stock operations, on shapes that are no multiple of
//! any vector or block.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;

use super::{
    attention, check_cross_entropy, packed, random, read, relative_error, rope, tensor, values, weight_gradient,
};
use crate::ops::{
    Activation, AttentionSpec, CrossEntropySpec, Dropout, DropoutOps, IGNORE, Layout, LowRank, LowRankOps, Ops,
    Precision, Tensors, stock,
};

#[track_caller]
fn assert_same(what: &str, found: FlexTensor, expected: FlexTensor) {
    let ((found_shape, found), (expected_shape, expected)) = (read(found), read(expected));
    assert_eq!(found_shape, expected_shape, "{what}: shape");
    let error = relative_error(&found, &expected);
    assert!(error < 1e-5, "{what} differs by {error:.2e}");
}

fn list(tensors: impl IntoIterator<Item = FlexTensor>) -> Tensors<Flex> {
    Tensors(tensors.into_iter().collect())
}

/// Tokens, input width, output widths.
const PROJECTIONS: [(usize, usize, &[usize]); 5] =
    [(1, 7, &[5]), (3, 5, &[4, 2, 3]), (13, 33, &[17, 8, 8]), (1, 65, &[31, 1]), (70, 65, &[67])];

#[test]
fn project() {
    for (tokens, width, outs) in PROJECTIONS {
        let total: usize = outs.iter().sum();
        let x = random(1, tokens, width);
        let weights = list(outs.iter().enumerate().map(|(i, &out)| random(10 + i as u64, out, width)));
        let biases = || list(outs.iter().enumerate().map(|(i, &out)| random(20 + i as u64, 1, out)));
        for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
            let biases = if with_bias { biases() } else { list([]) };
            let residual = list(with_residual.then(|| random(30, tokens, total)));
            let found = <Flex as Ops>::project(x.clone(), weights.clone(), biases.clone(), residual.clone());
            let expected = stock::project::<Flex>(x.clone(), weights.clone(), biases, residual);
            assert_same(
                &format!("{tokens}·{width}→{outs:?}, bias {with_bias}, residual {with_residual}"),
                found,
                expected,
            );
        }
        let dy = random(2, tokens, total);
        let found = <Flex as Ops>::project_input_gradient(dy.clone(), weights.clone());
        assert_same("input gradient", found, stock::project_input_gradient::<Flex>(dy.clone(), weights));
        let mut first = 0;
        for &rows in outs {
            let found = weight_gradient(dy.clone(), x.clone(), first..first + rows);
            let expected = stock::project_weight_gradient::<Flex>(dy.clone(), x.clone(), first..first + rows);
            assert_same("weight gradient", found, expected);
            first += rows;
        }
    }
}

#[test]
fn rms_norm() {
    for (rows, width) in [(1, 1), (1, 7), (5, 33), (67, 100)] {
        let (x, scale, dy) = (random(1, rows, width), random(2, 1, width), random(3, rows, width));
        let (y, inverse) = <Flex as Ops>::rms_norm_forward(x.clone(), scale.clone(), 1e-3, Precision::F32);
        let (expected, expected_inverse) = stock::rms_norm_forward::<Flex>(x.clone(), scale.clone(), 1e-3);
        assert_same("norm", y.clone(), expected);
        assert_same("inverse", inverse, expected_inverse.clone());
        assert_same("norm alone", <Flex as Ops>::rms_norm(x.clone(), scale.clone(), 1e-3, Precision::F32), y);
        for want_scale in [false, true] {
            let arguments = (dy.clone(), x.clone(), scale.clone(), expected_inverse.clone());
            let (dy, x, scale, inverse) = arguments.clone();
            let (dx, dscale) = <Flex as Ops>::rms_norm_backward(dy, x, scale, inverse, want_scale);
            let (dy, x, scale, inverse) = arguments;
            let (expected_dx, expected_dscale) = stock::rms_norm_backward::<Flex>(dy, x, scale, inverse, want_scale);
            // With one column dx is all cancellation but for eps.
            if width > 1 {
                assert_same("dx", dx, expected_dx);
            }
            match (dscale, expected_dscale) {
                (Some(found), Some(expected)) => assert_same("dscale", found, expected),
                (found, expected) => assert!(found.is_none() && expected.is_none() && !want_scale),
            }
        }
    }
}

#[test]
fn dropout() {
    let (x, dropout) = (random(1, 13, 21), Dropout { share: 0.3, key: [4, 3, 2, 1] });
    assert_same("dropout", <Flex as DropoutOps>::dropout(x.clone(), dropout), stock::dropout::<Flex>(x, dropout));
}

#[test]
fn low_rank() {
    // Rank, first column and columns of each adapter.
    type Adapters = &'static [(usize, usize, usize)];
    let all: [(usize, usize, Adapters); 4] =
        [(1, 5, &[(2, 0, 5)]), (3, 9, &[(2, 0, 4), (3, 7, 2)]), (70, 67, &[(33, 1, 65)]), (13, 50, &[(5, 17, 33)])];
    for (tokens, width, adapters) in all {
        let ranks = adapters.iter().map(|(r, ..)| r).sum();
        let b = list(adapters.iter().map(|&(r, first, out)| random(first as u64, out, r)));
        let spec = LowRank { firsts: adapters.iter().map(|(_, first, _)| *first).collect(), scale: 0.7, tie: None };
        let (y, u) = (random(1, tokens, width), random(2, tokens, ranks));
        let found = <Flex as LowRankOps>::add_expanded(y.clone(), u.clone(), b.clone(), spec.clone());
        let expected = stock::add_expanded::<Flex>(y.clone(), u, b.clone(), &spec);
        assert_same(&format!("{tokens}·{adapters:?}"), found, expected);
        let found = <Flex as LowRankOps>::expanded_gradient(y.clone(), b.clone(), spec.clone());
        assert_same("its gradient", found, stock::expanded_gradient::<Flex>(y.clone(), b, &spec));
        let a = list(adapters.iter().map(|&(r, first, _)| random(first as u64, r, width)));
        let expected = stock::project::<Flex>(y.clone(), a.clone(), list([]), list([]));
        let expected = <Flex as FloatTensorOps<Flex>>::float_mul_scalar(expected, 0.7_f32.into());
        assert_same("first product", <Flex as LowRankOps>::scaled_input(y, a, 0.7), expected);
    }
}

/// A weight gradient whose x is some columns of a wider tensor.
#[test]
fn weight_gradient_of_a_view() {
    let (dy, wide) = (random(1, 13, 9), random(2, 13, 40));
    for (first, count) in [(0, 40), (7, 16), (39, 1)] {
        let x = stock::columns::<Flex>(wide.clone(), first, count);
        let found = weight_gradient(dy.clone(), x.clone(), 2..7);
        assert_same("view", found, stock::project_weight_gradient::<Flex>(dy.clone(), x, 2..7));
    }
}

#[test]
fn input_gradient_onto_another() {
    let (dy, weights) = (random(1, 13, 9), list([random(2, 4, 21), random(3, 5, 21)]));
    let onto = random(4, 13, 21);
    let found = <Flex as Ops>::project_input_gradient_onto(dy.clone(), weights.clone(), onto.clone());
    let expected = stock::project_input_gradient::<Flex>(dy, weights);
    assert_same("onto", found, <Flex as FloatTensorOps<Flex>>::float_add(onto, expected));
}

/// Grouped and ungrouped heads, one token and several samples, sliding windows, keys from a cache.
fn attentions() -> Vec<AttentionSpec> {
    let layouts = [packed(&[1]), packed(&[1, 5, 3]), packed(&[17]), packed(&[4, 1, 1, 12])];
    let mut specs = Vec::new();
    for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 2, 6), (3, 1, 8), (5, 5, 10)] {
        for layout in &layouts {
            for window in [None, Some(1), Some(3), Some(100)] {
                let spec = attention(heads, kv_heads, head_dim, layout.clone());
                specs.push(AttentionSpec { window, rope: window.is_none().then(|| rope(head_dim)), ..spec.clone() });
                if window.is_none() {
                    specs.push(AttentionSpec { causal: false, ..spec });
                }
            }
        }
    }
    specs
}

#[test]
fn split_heads_and_join_heads() {
    for spec in attentions() {
        let tokens = spec.layout.positions.len();
        let qkv = random(1, tokens, spec.query_width() + 2 * spec.key_width());
        let (q, k, v) = <Flex as Ops>::split_heads(qkv.clone(), spec.clone());
        let (expected_q, expected_k, expected_v) = stock::split_heads::<Flex>(qkv, &spec);
        for (found, expected) in [(&q, expected_q), (&k, expected_k), (&v, expected_v)] {
            assert_same("split", found.clone(), expected);
        }
        let joined = <Flex as Ops>::join_heads(q.clone(), k.clone(), v.clone(), spec.clone());
        assert_same("joined", joined, stock::join_heads::<Flex>(q, k, v, &spec));
    }
}

#[test]
fn attend() {
    let cached = [(5, 1), (5, 3), (0, 4)].map(|(past, tokens)| attention(4, 2, 6, Layout::cached(past, tokens)));
    let windowed = cached.clone().map(|spec| AttentionSpec { window: Some(3), ..spec });
    for spec in attentions().into_iter().chain(cached).chain(windowed) {
        let tokens = spec.layout.positions.len();
        let keys = spec.layout.segments.iter().map(|segment| segment.key.end).max().unwrap();
        let q = random(1, tokens, spec.query_width());
        let (k, v) = (random(2, keys, spec.key_width()), random(3, keys, spec.key_width()));
        let (out, lse) = <Flex as Ops>::attend(q.clone(), k.clone(), v.clone(), spec.clone());
        let (expected, expected_lse) = stock::attend::<Flex>(q.clone(), k.clone(), v.clone(), &spec);
        assert_same(&format!("output of {spec:?}"), out, expected.clone());
        assert_same("log-sum-exp", lse, expected_lse.clone());
        if keys > tokens {
            continue;
        }
        let dout = random(4, tokens, spec.query_width());
        let (out, lse) = (expected, expected_lse);
        let found = <Flex as Ops>::attend_backward(
            dout.clone(),
            q.clone(),
            k.clone(),
            v.clone(),
            out.clone(),
            lse.clone(),
            spec.clone(),
        );
        let expected = stock::attend_backward::<Flex>(dout, q, k, v, out, lse, &spec);
        // A token that sees itself alone has no gradient in its scores: compare such q and k absolutely.
        let alone = spec.window == Some(1) || spec.layout.segments.iter().all(|segment| segment.query.len() == 1);
        if alone {
            for gradient in [found.0, found.1] {
                assert!(read(gradient).1.iter().all(|g| g.abs() < 1e-6), "{spec:?}");
            }
        } else {
            assert_same(&format!("dq of {spec:?}"), found.0, expected.0);
            assert_same("dk", found.1, expected.1);
        }
        assert_same("dv", found.2, expected.2);
    }
}

#[test]
fn self_attention() {
    for spec in attentions() {
        let tokens = spec.layout.positions.len();
        let qkv = random(1, tokens, spec.query_width() + 2 * spec.key_width());
        let (q, k, v) = stock::split_heads::<Flex>(qkv.clone(), &spec);
        let (expected, _) = stock::attend::<Flex>(q, k, v, &spec);
        assert_same(&format!("{spec:?}"), <Flex as Ops>::self_attention(qkv, spec), expected);
    }
}

#[test]
fn gated_activation() {
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for (rows, width) in [(1, 1), (1, 5), (9, 33)] {
            // Wide enough for both tails.
            let gate_up: Vec<f32> = values(1, rows * 2 * width).iter().map(|v| 6.0 * v).collect();
            let gate_up = tensor(gate_up, rows, 2 * width);
            let dy = random(2, rows, width);
            let found = <Flex as Ops>::gated_activation(gate_up.clone(), activation);
            let expected = stock::gated_activation::<Flex>(gate_up.clone(), activation);
            assert_same(&format!("{activation:?}"), found, expected);
            let found = <Flex as Ops>::gated_activation_backward(dy.clone(), gate_up.clone(), activation);
            let expected = stock::gated_activation_backward::<Flex>(dy, gate_up, activation);
            assert_same(&format!("gradient of {activation:?}"), found, expected);
        }
    }
}

#[test]
fn embed() {
    for (vocabulary, width, ids) in [(1, 1, vec![0]), (11, 7, vec![3]), (11, 33, vec![10, 0, 3, 3, 0, 3])] {
        let (weight, ids) = (random(1, vocabulary, width), Arc::new(ids));
        let found = <Flex as Ops>::embed(weight.clone(), ids.clone(), None);
        assert_same("rows", found, stock::embed::<Flex>(weight, &ids));
        let dy = random(2, ids.len(), width);
        for onto in [list([]), list([random(3, vocabulary, width)])] {
            let found = <Flex as Ops>::embed_backward(dy.clone(), onto.clone(), ids.clone(), vocabulary);
            assert_same("gradient", found, stock::embed_backward::<Flex>(dy.clone(), onto, &ids, vocabulary));
        }
    }
}

#[test]
fn cross_entropy() {
    for (vocabulary, width, targets) in
        [(2, 1, vec![1]), (11, 7, vec![3, IGNORE, 10, 0, IGNORE]), (301, 33, (0..67).map(|i| i * 4).collect())]
    {
        let (hidden, weight) = (random(1, targets.len(), width), random(2, vocabulary, width));
        let spec = CrossEntropySpec { targets: Arc::new(targets), scale: 0.37 };
        check_cross_entropy(&hidden, &weight, &spec, assert_same);
    }
}

#[test]
fn a_batch_without_targets_has_no_loss_and_no_gradient() {
    let spec = CrossEntropySpec { targets: Arc::new(vec![IGNORE; 3]), scale: 1.0 };
    let (loss, dhidden, dweight) =
        <Flex as Ops>::cross_entropy_forward(random(1, 3, 5), random(2, 7, 5), spec, true, true);
    for zeros in [Some(loss), dhidden, dweight] {
        assert!(read(zeros.unwrap()).1.iter().all(|&value| value == 0.0));
    }
}
