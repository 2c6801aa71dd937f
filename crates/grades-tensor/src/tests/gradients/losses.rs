//! The head of a language model, and the embedding that is tied to it.

use std::sync::Arc;

use super::super::exclusive;
use super::{Inputs, check, check_loss};
use crate::dtype::Dtype;
use crate::ops;
use crate::spec::{CrossEntropySpec, IGNORE_INDEX, LossScale};
use crate::tape::Leaf;

#[test]
fn cross_entropy() {
    let _counters = exclusive();
    let spec = CrossEntropySpec { targets: Arc::new(vec![2, IGNORE_INDEX, 0, 6]), scale: LossScale::Same(0.4) };
    check_loss("cross_entropy", &Inputs::of(&[[4, 3]], &[[7, 3]]), |tape, v, p| {
        ops::cross_entropy(tape, &v[0], &Leaf::tracked(p[0].clone(), 0), &spec)
    });
}

/// Each loss by a scale of its own.
#[test]
fn scaled_cross_entropy() {
    let _counters = exclusive();
    let scale = LossScale::Each(Arc::new(vec![0.4, 5.0, -1.3, 0.0]));
    let spec = CrossEntropySpec { targets: Arc::new(vec![2, IGNORE_INDEX, 0, 6]), scale };
    check_loss("cross_entropy", &Inputs::of(&[[4, 3]], &[[7, 3]]), |tape, v, p| {
        ops::cross_entropy(tape, &v[0], &Leaf::tracked(p[0].clone(), 0), &spec)
    });
}

#[test]
fn label_log_probabilities() {
    let _counters = exclusive();
    let targets = Arc::new(vec![2, IGNORE_INDEX, 0, 6, IGNORE_INDEX]);
    check("label_log_probabilities", &Inputs::of(&[[5, 3]], &[[7, 3]]), |tape, v, p| {
        ops::label_log_probabilities(tape, &v[0], &Leaf::tracked(p[0].clone(), 0), targets.clone())
    });
}

/// One slot for both uses of the weight.
#[test]
fn tied_embedding() {
    let _counters = exclusive();
    let spec = CrossEntropySpec { targets: Arc::new(vec![2, IGNORE_INDEX, 0, 6]), scale: LossScale::Same(0.4) };
    let ids = Arc::new(vec![4, 1, 4, 0]);
    check_loss("tied embedding", &Inputs::of(&[], &[[7, 3], [1, 3]]), |tape, _, p| {
        let (embedding, scale) = (Leaf::tracked(p[0].clone(), 0), Leaf::tracked(p[1].clone(), 1));
        let x = ops::embed(tape, &embedding, ids.clone());
        let x = ops::rms_norm(tape, &x, &scale, 0.1, Dtype::F32);
        ops::cross_entropy(tape, &x, &embedding, &spec)
    });
}
