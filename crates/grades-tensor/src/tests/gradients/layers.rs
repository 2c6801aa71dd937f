//! Norms, attention, gates and dropout.

use super::super::{ACTIVATIONS, attention, exclusive, packed, rope};
use super::{Inputs, check};
use crate::attention::AttentionSpec;
use crate::dropout::Dropout;
use crate::dtype::Dtype;
use crate::ops;
use crate::tape::Leaf;

#[test]
fn rms_norm() {
    let _counters = exclusive();
    for (rows, width) in [(3, 5), (1, 1)] {
        check("rms_norm", &Inputs::of(&[[rows, width]], &[[1, width]]), |tape, v, p| {
            // With one column and a small eps there is no gradient in x.
            ops::rms_norm(tape, &v[0], &Leaf::tracked(p[0].clone(), 0), 0.1, Dtype::F32)
        });
    }
}

#[test]
fn layer_norm() {
    let _counters = exclusive();
    check("layer_norm", &Inputs::of(&[[3, 5]], &[[1, 5], [1, 5]]), |tape, v, p| {
        let [scale, bias] = [0, 1].map(|slot| Leaf::tracked(p[slot].clone(), slot));
        ops::layer_norm(tape, &v[0], [&scale, &bias], 0.1, Dtype::F32)
    });
}

#[test]
fn add_normed() {
    let _counters = exclusive();
    for (rows, width) in [(3, 5), (1, 1)] {
        check("add_normed", &Inputs::of(&[[rows, width], [rows, width]], &[[1, width]]), |tape, v, p| {
            ops::add_normed(tape, &v[0], v[1].clone(), &Leaf::tracked(p[0].clone(), 0), 0.1)
        });
    }
}

#[test]
fn scale() {
    let _counters = exclusive();
    check("scale", &Inputs::of(&[[3, 5]], &[]), |tape, v, _| ops::scale(tape, v[0].clone(), -2.5));
}

#[test]
fn self_attention() {
    let _counters = exclusive();
    let spec = attention(4, 2, 4, packed(&[1, 4, 2]));
    let inputs = Inputs::of(&[[7, 16 + 2 * 8]], &[]);
    for spec in [
        spec.clone(),
        AttentionSpec { rope: Some(rope(4)), ..spec.clone() },
        AttentionSpec { rope: Some(rope(2)), ..spec.clone() },
        AttentionSpec { window: Some(2), rope: Some(rope(4)), ..spec.clone() },
        AttentionSpec { causal: false, ..spec.clone() },
        AttentionSpec { causal: false, window: Some(2), ..spec },
    ] {
        check(&format!("{spec:?}"), &inputs, |tape, v, _| ops::self_attention(tape, v[0].clone(), spec.clone()));
    }
}

#[test]
fn norm_heads() {
    let _counters = exclusive();
    let spec = attention(4, 2, 3, packed(&[3, 2]));
    check("norm_heads", &Inputs::of(&[[5, 12 + 2 * 6]], &[[1, 3], [1, 3]]), |tape, v, p| {
        let [q, k] = [0, 1].map(|slot| Leaf::tracked(p[slot].clone(), slot));
        ops::norm_heads(tape, v[0].clone(), [&q, &k], 0.1, &spec)
    });
}

#[test]
fn activate() {
    let _counters = exclusive();
    for activation in ACTIVATIONS {
        check(&format!("{activation:?}"), &Inputs::of(&[[3, 5]], &[]), |tape, v, _| {
            ops::activate(tape, v[0].clone(), activation)
        });
    }
}

#[test]
fn gated_activation() {
    let _counters = exclusive();
    for activation in ACTIVATIONS {
        check(&format!("{activation:?}"), &Inputs::of(&[[3, 10]], &[]), |tape, v, _| {
            ops::gated_activation(tape, v[0].clone(), activation)
        });
    }
}

#[test]
fn dropout() {
    let _counters = exclusive();
    let dropout = Dropout { rate: 0.4, key: [1, 2, 3, 4] };
    check("dropout", &Inputs::of(&[[5, 7]], &[]), |tape, v, _| ops::dropout(tape, &v[0], dropout));
}
