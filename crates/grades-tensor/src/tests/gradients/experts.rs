//! Routing tokens to experts.

use std::rc::Rc;
use std::sync::Arc;

use super::super::{ALL, exclusive, relative_error};
use super::{Inputs, check, slopes};
use crate::dispatch::Dispatch;
use crate::ops::{self, Balance};
use crate::tape::{Gradients, Tape};

#[test]
fn route() {
    let _counters = exclusive();
    for (tokens, experts, top_k) in [(1, 3, 1), (5, 4, 2), (3, 5, 5)] {
        for normalise in [false, true] {
            if normalise && top_k == 1 {
                // The weight is 1 whatever the logits.
                continue;
            }
            check(&format!("{top_k} of {experts}"), &Inputs::of(&[[tokens, experts]], &[]), |tape, v, _| {
                ops::route(tape, &v[0], top_k, normalise, None).0
            });
        }
    }
}

/// Two layers share a balance: each has the gradient of the loss of both, and one that runs again changes nothing.
#[test]
fn balance() {
    let _counters = exclusive();
    let inputs = Inputs::of(&[[5, 4], [5, 4]], &[]);
    for device in ALL {
        let tensor = |(shape, values): &([usize; 2], Vec<f32>)| device.from_host(values.clone(), *shape);
        let loss = |inputs: &Inputs| {
            let balance = Rc::new(Balance::new(0.5));
            for logits in &inputs.vars {
                let (tape, logits) = (Tape::off(), crate::Var::constant(tensor(logits)));
                let _ = ops::route(&tape, &logits, 2, true, Some(&balance));
            }
            balance.loss()
        };
        let balance = Rc::new(Balance::new(0.5));
        let first = crate::Var::constant(tensor(&inputs.vars[0]));
        let _ = ops::route(&Tape::off(), &first, 2, true, Some(&balance));
        let mut found = Vec::new();
        for wanted in [1, 0] {
            let tape = Tape::recording();
            let logits = tape.input(tensor(&inputs.vars[wanted]));
            let (weights, _) = ops::route(&tape, &logits, 2, true, Some(&balance));
            balance.finish();
            let nothing = device.zeros(weights.value.shape(), crate::Dtype::F32);
            let gradient = tape.backward(Some((&weights, nothing)), Some(&logits), &mut Gradients::new(0)).unwrap();
            found.insert(0, gradient.to_host().into_owned());
        }
        assert!((balance.loss() - loss(&inputs)).abs() < 1e-9);
        for (index, found) in found.iter().enumerate() {
            let error = relative_error(found, &slopes(&inputs, index, loss));
            assert!(error < 1e-3, "layer {index} on {}: {error:.2e}", device.name());
        }
    }
    // All tokens to the first two of four experts, which have half of the probability each: 4 · (1 · ½ + 1 · ½).
    let balance = Rc::new(Balance::new(1.0));
    let logits = crate::Var::constant(ALL[0].from_host(vec![50.0, 50.0, 0.0, 0.0, 50.0, 50.0, 0.0, 0.0], [2, 4]));
    let _ = ops::route(&Tape::off(), &logits, 2, false, Some(&balance));
    assert!((balance.loss() - 4.0).abs() < 1e-6 && Balance::new(1.0).loss() == 0.0);
}

#[test]
fn take_rows_and_combine() {
    let _counters = exclusive();
    let dispatch = Arc::new(Dispatch::new(&[1, 0, 3, 1, 0, 3], 2, 4));
    check("experts", &Inputs::of(&[[3, 5], [3, 5], [3, 2]], &[]), |tape, v, _| {
        let part = |(index, group): (usize, &crate::Group)| {
            let rows = ops::take_rows(tape, &v[0], &group.tokens);
            // Each expert does something else.
            ops::scale(tape, rows, index as f32 + 0.5)
        };
        let parts = dispatch.groups.iter().enumerate().map(part).collect();
        ops::combine(tape, &v[1], parts, &dispatch, &v[2])
    });
}
