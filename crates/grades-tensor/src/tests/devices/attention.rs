//! Attention and the heads around it.

use super::super::{attention, packed, random, rope};
use super::{DTYPES, compare, compare_exactly, compare_within, moved, operand, those, tolerance};
use crate::attention::{AttentionSpec, Layout};
use crate::device::{DeviceRef, Layers, SavedAttention};
use crate::dtype::Dtype;
use crate::reference::REFERENCE;

/// Grouped and ungrouped heads; no token, one, and several samples; sliding windows, with and without later tokens.
fn specs() -> Vec<AttentionSpec> {
    let layouts = [packed(&[]), packed(&[1]), packed(&[1, 5, 3]), packed(&[17]), packed(&[4, 1, 1, 12])];
    let mut specs = Vec::new();
    for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 2, 6), (3, 1, 8), (5, 5, 10), (3, 1, 70)] {
        for layout in &layouts {
            for window in [None, Some(1), Some(3), Some(100)] {
                let spec = AttentionSpec { window, ..attention(heads, kv_heads, head_dim, layout.clone()) };
                // All of a head rotates, or a part.
                let rotary_dim = if layout.segments.len() == 1 { head_dim } else { (head_dim / 4 * 2).max(2) };
                specs.push(AttentionSpec { rope: window.is_none().then(|| rope(rotary_dim)), ..spec.clone() });
                specs.push(AttentionSpec { causal: false, ..spec });
            }
        }
    }
    specs
}

/// New tokens behind those of a cache, and samples that begin alike.
fn specs_with_more_keys() -> Vec<AttentionSpec> {
    let tree = [None, Some(0), Some(1), Some(1), Some(3), None, Some(5), Some(5)];
    let layouts = [Layout::cached(5, 1), Layout::cached(5, 3), Layout::cached(0, 4), Layout::tree(&tree)];
    let with = |window| move |layout| AttentionSpec { window, ..attention(4, 2, 6, layout) };
    let windows = [None, Some(3)];
    windows.into_iter().flat_map(|window| layouts.clone().map(with(window))).collect()
}

/// Rows of the keys.
fn keys(spec: &AttentionSpec) -> usize {
    spec.layout.segments.iter().map(|segment| segment.key.end).max().unwrap_or(0)
}

#[test]
fn split_heads_and_join_heads() {
    for dtype in DTYPES {
        for spec in specs() {
            let tokens = spec.layout.positions.len();
            let run = |device: DeviceRef| {
                let qkv = operand(device, 1, [tokens, spec.query_width() + 2 * spec.key_width()], dtype);
                let split = device.split_heads(&qkv, &spec);
                let [dq, dk, dv] = [(2, spec.query_width()), (3, spec.key_width()), (4, spec.key_width())]
                    .map(|(seed, width)| operand(device, seed, [tokens, width], dtype));
                [split.to_vec(), vec![device.join_heads(&dq, &dk, &dv, &spec)]].concat()
            };
            match spec.rope {
                Some(_) => compare(dtype, &format!("{spec:?}"), run),
                None => compare_exactly(&format!("{spec:?}"), run),
            }
        }
    }
}

#[test]
fn norm_heads() {
    for dtype in DTYPES {
        for spec in specs() {
            let shape = [spec.layout.positions.len(), spec.query_width() + 2 * spec.key_width()];
            let scale = |device: DeviceRef, seed| random(device, seed, [1, spec.head_dim]);
            compare(dtype, &format!("{spec:?}"), |device| {
                let (qkv, q, k) = (operand(device, 1, shape, dtype), scale(device, 2), scale(device, 3));
                let (y, inverse) = device.norm_heads(&qkv, [&q, &k], 1e-3, &spec);
                assert_eq!((y.dtype(), inverse.dtype()), (dtype, Dtype::F32));
                vec![y, inverse]
            });
        }
    }
}

#[test]
fn norm_heads_backward() {
    for dtype in DTYPES {
        for spec in specs() {
            let shape = [spec.layout.positions.len(), spec.query_width() + 2 * spec.key_width()];
            let qkv = operand(&REFERENCE, 1, shape, dtype);
            let [q, k] = [2, 3].map(|seed| random(&REFERENCE, seed, [1, spec.head_dim]));
            let inverse = REFERENCE.norm_heads(&qkv, [&q, &k], 1e-3, &spec).1;
            for wanted in [[false, false], [true, false], [false, true], [true, true]] {
                compare(dtype, &format!("{spec:?}, scales {wanted:?}"), |device| {
                    let [qkv, q, k, inverse] = [&qkv, &q, &k, &inverse].map(|saved| moved(saved, device));
                    let dy = operand(device, 4, shape, dtype);
                    let (dx, dscales) = device.norm_heads_backward(&dy, &qkv, [&q, &k], &inverse, wanted, &spec);
                    assert_eq!((dx.dtype(), dscales.each_ref().map(Option::is_some)), (dtype, wanted));
                    let [of_q, of_k] = dscales;
                    those([Some(dx), of_q, of_k])
                });
            }
        }
    }
}

#[test]
fn attend() {
    for dtype in DTYPES {
        for spec in specs().into_iter().chain(specs_with_more_keys()) {
            let tokens = spec.layout.positions.len();
            compare(dtype, &format!("{spec:?}"), |device| {
                let q = operand(device, 1, [tokens, spec.query_width()], dtype);
                let [k, v] = [2, 3].map(|seed| operand(device, seed, [keys(&spec), spec.key_width()], dtype));
                let (out, log_sum_exp) = device.attend(&q, &k, &v, &spec);
                assert_eq!((out.dtype(), log_sum_exp.dtype()), (dtype, Dtype::F32));
                vec![out, log_sum_exp]
            });
        }
    }
}

#[test]
fn attend_backward() {
    for dtype in DTYPES {
        for spec in specs().into_iter().chain(specs_with_more_keys()) {
            let tokens = spec.layout.positions.len();
            let q = operand(&REFERENCE, 1, [tokens, spec.query_width()], dtype);
            let [k, v] = [2, 3].map(|seed| operand(&REFERENCE, seed, [keys(&spec), spec.key_width()], dtype));
            let (out, log_sum_exp) = REFERENCE.attend(&q, &k, &v, &spec);
            let gradients = |device| {
                let [q, k, v, out, log_sum_exp] = [&q, &k, &v, &out, &log_sum_exp].map(|saved| moved(saved, device));
                let dout = operand(device, 4, [tokens, spec.query_width()], dtype);
                device.attend_backward(&dout, &SavedAttention { q, k, v, out, log_sum_exp }, &spec).to_vec()
            };
            // A token that sees itself alone has no gradient in its scores: compare such q and k absolutely.
            let alone = spec.window == Some(1) || spec.layout.segments.iter().all(|segment| segment.key.len() == 1);
            if alone {
                let found = gradients(&crate::cpu::CPU);
                let small = if dtype == Dtype::Bf16 { 1e-2 } else { 1e-6 };
                for gradient in &found[..2] {
                    assert!(gradient.to_host().iter().all(|g| g.abs() < small), "{spec:?}");
                }
            }
            let compared = if alone { 2.. } else { 0.. };
            compare_within(tolerance(dtype), &format!("{spec:?}"), |device| {
                gradients(device)[compared.clone()].to_vec()
            });
        }
    }
}

/// Counted by hand: a triangle a sample, cut by a window, and the square where later tokens are seen.
#[test]
fn visible_pairs() {
    let layout = packed(&[1, 4, 2]);
    assert_eq!(layout.visible_pairs(true, None), 1 + 10 + 3);
    assert_eq!(layout.visible_pairs(true, Some(2)), 1 + 7 + 3);
    assert_eq!(layout.visible_pairs(false, None), 1 + 16 + 4);
    assert_eq!(layout.visible_pairs(false, Some(2)), 1 + (2 + 3 + 3 + 2) + 4);
    assert_eq!(Layout::cached(5, 3).visible_pairs(true, None), 6 + 7 + 8);
    assert_eq!(Layout::cached(5, 3).visible_pairs(true, Some(7)), 6 + 7 + 7);
    let spec = AttentionSpec { window: Some(2), ..attention(3, 1, 10, layout) };
    assert_eq!(spec.operations(), 2 * 2 * 11 * 30);
}
