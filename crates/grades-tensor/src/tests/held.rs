//! What a forward pass keeps for its backward pass, counted by hand.

use super::{exclusive, random};
use crate::cpu::CPU;
use crate::dtype::Dtype;
use crate::held::{Made, held};
use crate::ops;
use crate::tape::{Gradients, Leaf, Tape};

#[test]
fn what_is_kept_for_the_way_back_is_counted_by_the_operation_that_made_it() {
    let _counters = exclusive();
    let (tokens, width, inner) = (5, 6, 7);
    let before = held();
    let tape = Tape::recording();
    let x = tape.input(random(&CPU, 1, [tokens, width]));
    // What no operation has made is not counted.
    assert_eq!(held().since(&before).total(), 0);
    let scale = Leaf::tracked(random(&CPU, 2, [1, width]), 0);
    let normed = ops::rms_norm(&tape, &x, &scale, 1e-5, Dtype::Bf16);
    let weight = Leaf::tracked(random(&CPU, 3, [inner, width]), 1);
    let y = ops::project(&tape, &normed, std::slice::from_ref(&weight), &[], None);
    drop(normed);
    let back = Leaf::tracked(random(&CPU, 4, [width, inner]), 2);
    let stream = ops::project(&tape, &y, &[back], &[], Some(&x));
    drop(y);
    let kept = held().since(&before);
    // The norm's output in bf16 and its factor a row; what the second product reads; the sum, which is here.
    assert_eq!(kept.of(Made::Norms), (2 * tokens * width + 4 * tokens) as u64);
    assert_eq!(kept.of(Made::Projections), (2 * tokens * inner) as u64);
    assert_eq!(kept.of(Made::Stream), (4 * tokens * width) as u64);
    assert_eq!(kept.total(), kept.of(Made::Norms) + kept.of(Made::Projections) + kept.of(Made::Stream));
    let dy = random(&CPU, 5, [tokens, width]);
    tape.backward(Some((&stream, dy)), None, &mut Gradients::new(3));
    drop(stream);
    assert_eq!(held().since(&before).total(), 0);
}

/// A frozen matrix needs no input, so nothing is kept of it.
#[test]
fn nothing_is_kept_where_nothing_trains() {
    let _counters = exclusive();
    let before = held();
    let tape = Tape::recording();
    let x = crate::tape::Var::constant(random(&CPU, 1, [3, 4]));
    let y = ops::project(&tape, &x, &[Leaf::constant(random(&CPU, 2, [5, 4]))], &[], None);
    assert_eq!(held().since(&before).total(), 4 * 3 * 5);
    drop(y);
    assert_eq!(held().since(&before).total(), 0);
}
