//! What is recorded, what is kept, and where gradients are added.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::{ALL, attention, exclusive, packed, random, relative_error, values};
use crate::cpu::CPU;
use crate::device::{DeviceRef, Memory};
use crate::dropout::Dropout;
use crate::dtype::Dtype;
use crate::flops::executed;
use crate::ops::{self, LowRank, Scale};
use crate::spec::{Activation, CrossEntropySpec, LossScale};
use crate::tape::{Gradients, Leaf, Tape, Var};
use crate::tensor::Tensor;
use grades::Flops;

/// Recorded steps.
fn steps(tape: &Tape) -> String {
    format!("{tape:?}")
}

/// Every recorded operation once: the values, and the losses as the last.
fn every_operation(tape: &Tape, device: DeviceRef, leaf: impl Fn(Tensor, usize) -> Leaf) -> Vec<Var> {
    let parameter = |slot: usize, shape| leaf(random(device, slot as u64 + 1, shape), slot);
    let mut values = Vec::new();
    let mut keep = |value: Var| {
        values.push(value.clone());
        value
    };
    let embedding = parameter(0, [9, 6]);
    let x = keep(ops::embed(tape, &embedding, Arc::new(vec![3, 1, 8, 3])));
    let normed = keep(ops::rms_norm(tape, &x, &parameter(1, [1, 6]), 1e-3, Dtype::F32));
    let qkv = keep(ops::project(tape, &normed, &[parameter(2, [12, 6])], &[parameter(3, [1, 12])], None));
    let seen = keep(ops::self_attention(tape, qkv, attention(2, 2, 2, packed(&[4]))));
    let dropped = keep(ops::dropout(tape, &seen, Dropout { rate: 0.2, key: [1, 2, 3, 4] }));
    let y = keep(ops::project(tape, &dropped, &[parameter(4, [6, 4])], &[], None));
    let adapters =
        LowRank { a: vec![parameter(5, [2, 4])], b: vec![parameter(6, [6, 2])], firsts: vec![0], scaling: 0.5 };
    let y = keep(ops::add_low_rank(tape, y, &dropped, adapters));
    let scale = Scale::Adapted { magnitude: parameter(7, [1, 6]), norms: random(device, 40, [1, 6]) };
    let x = keep(ops::rescale(tape, y, vec![scale], &[parameter(8, [1, 6])], Some(&x)));
    let inner = keep(ops::gated_project(tape, &x, &[parameter(9, [8, 6]), parameter(10, [8, 6])], Activation::Gelu));
    let inner = keep(ops::gated_activation(tape, inner, Activation::Silu));
    let x = keep(ops::project(tape, &inner, &[parameter(11, [6, 4])], &[], Some(&x)));
    let spec = CrossEntropySpec { targets: Arc::new(vec![1, 8, 3, 0]), scale: LossScale::Same(0.25) };
    keep(ops::cross_entropy(tape, &x, &embedding, &spec));
    values
}

const OPERATIONS: usize = 12;
const SLOTS: usize = 12;

#[test]
fn nothing_is_recorded_when_nothing_is_tracked_or_the_tape_is_off() {
    let _counters = exclusive();
    for device in ALL {
        let (recording, off) = (Tape::recording(), Tape::off());
        assert_eq!((recording.is_recording(), off.is_recording()), (true, false));
        let constant = every_operation(&recording, device, |value, _| Leaf::constant(value));
        let without = every_operation(&off, device, Leaf::tracked);
        assert_eq!([&recording, &off].map(steps), ["Tape of 0 steps"; 2]);
        for values in [&constant, &without] {
            assert_eq!(values.len(), OPERATIONS);
            assert!(values.iter().all(|value| !value.is_tracked()));
        }
        // The values do not depend on it.
        let tape = Tape::recording();
        let tracked = every_operation(&tape, device, Leaf::tracked);
        assert_eq!(steps(&tape), format!("Tape of {OPERATIONS} steps"));
        for ((tracked, constant), without) in tracked.iter().zip(&constant).zip(&without) {
            assert!(tracked.is_tracked());
            assert_eq!(tracked.value.to_host(), constant.value.to_host());
            assert_eq!(tracked.value.to_host(), without.value.to_host());
        }
        // Nor is there a gradient of what is not recorded.
        let mut gradients = Gradients::new(SLOTS);
        let input = off.input(random(device, 1, [1, 1]));
        assert!(!input.is_tracked());
        for (tape, values) in [(recording, constant), (off, without)] {
            let [.., y, _] = &values[..] else { panic!("two values") };
            let dy = random(device, 2, y.value.shape());
            assert!(tape.backward(Some((y, dy)), Some(y), &mut gradients).is_none());
        }
        assert_eq!(gradients.iter().count(), 0);
    }
}

/// Only what lies above the lowest tracked value is recorded.
#[test]
fn the_record_begins_above_what_is_tracked() {
    let _counters = exclusive();
    let tape = Tape::recording();
    // The down projection alone: it and the loss.
    let only = |slot| move |value, of| if of == slot { Leaf::tracked(value, of) } else { Leaf::constant(value) };
    let values = every_operation(&tape, &CPU, only(11));
    let tracked: Vec<bool> = values.iter().map(Var::is_tracked).collect();
    assert_eq!(tracked, [[false; OPERATIONS - 2].as_slice(), &[true, true]].concat());
    let mut gradients = Gradients::new(SLOTS);
    tape.backward(None, None, &mut gradients);
    assert_eq!(gradients.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [11]);
}

/// Each operation keeps only what a gradient needs: the output of the norm is kept for a weight that trains above it.
#[test]
fn what_is_kept_is_what_a_gradient_needs() {
    let _counters = exclusive();
    let shares = |trains: bool| {
        let tape = Tape::recording();
        let x = tape.input(random(&CPU, 1, [3, 5]));
        let leaf = |seed, slot, shape| {
            let value = random(&CPU, seed, shape);
            if trains { Leaf::tracked(value, slot) } else { Leaf::constant(value) }
        };
        let y = ops::project(&tape, &x, &[leaf(2, 0, [4, 5])], &[], None);
        let adapters =
            LowRank { a: vec![leaf(3, 1, [2, 5])], b: vec![leaf(4, 2, [4, 2])], firsts: vec![0], scaling: 1.0 };
        let y = ops::add_low_rank(&tape, y, &x, adapters);
        assert!(y.is_tracked());
        // One is `x` itself.
        x.value.shares() - 1
    };
    assert_eq!([false, true].map(shares), [0, 2]);
}

/// What the gate gives is kept by nothing above it, and its gradients are those of a value that was.
#[test]
fn an_activation_is_made_once_more() {
    let _counters = exclusive();
    for device in ALL {
        let gradients = |fused: bool, remade: bool| {
            let tape = Tape::recording();
            let leaf = |slot: usize, shape| Leaf::tracked(random(device, slot as u64, shape), slot);
            let x = tape.input(random(device, 9, [7, 6]));
            let (gate, up) = (leaf(0, [5, 6]), leaf(1, [5, 6]));
            let mut y = if fused {
                ops::gated_project(&tape, &x, &[gate, up], Activation::Silu)
            } else {
                ops::gated_activation(&tape, ops::project(&tape, &x, &[gate, up], &[], None), Activation::Silu)
            };
            if !remade {
                let kept = y.value.clone();
                y = y.remade(move || kept.clone());
            }
            let adapters =
                LowRank { a: vec![leaf(3, [2, 5])], b: vec![leaf(4, [4, 2])], firsts: vec![0], scaling: 1.0 };
            let out = ops::project(&tape, &y, &[leaf(2, [4, 5])], &[], None);
            let out = ops::add_low_rank(&tape, out, &y, adapters);
            assert_eq!(y.value.shares() == 1, remade);
            let mut gradients = Gradients::new(5);
            tape.backward(Some((&out, random(device, 8, [7, 4]))), None, &mut gradients);
            gradients.iter().map(|(_, gradient)| gradient.to_host().into_owned()).collect::<Vec<_>>()
        };
        let kept = gradients(true, false);
        assert_eq!(kept.len(), 5);
        assert_eq!([gradients(true, true), gradients(false, true)], [kept.clone(), kept]);
    }
}

/// By the time that an operation runs backwards, what those above it kept is free.
#[test]
fn what_a_step_kept_is_freed_as_the_pass_goes_back() {
    let _counters = exclusive();
    for device in ALL {
        let tape = Tape::recording();
        let parameter = |slot: usize, shape| Leaf::tracked(random(device, slot as u64, shape), slot);
        // Watches, at each place of the pass, the values of all places and the gradients of those above it.
        let held: Rc<RefCell<Vec<Tensor>>> = Rc::default();
        let above: Rc<RefCell<Vec<Tensor>>> = Rc::default();
        let found: Rc<RefCell<Vec<Vec<bool>>>> = Rc::default();
        let probe = |x: Var| {
            held.borrow_mut().push(x.value.clone());
            let (node, held, above, found) = (x.node(), held.clone(), above.clone(), found.clone());
            tape.record(x.value, node.is_tracked(), move |dy, backward| {
                found.borrow_mut().push(held.borrow().iter().map(|tensor| tensor.shares() > 1).collect());
                assert!(above.borrow().iter().all(|gradient| gradient.shares() == 1));
                above.borrow_mut().push(dy.clone());
                backward.add(node, dy);
            })
        };
        let mut x = probe(tape.input(random(device, 1, [3, 6])));
        x = probe(ops::rms_norm(&tape, &x, &parameter(0, [1, 6]), 1e-3, Dtype::F32));
        x = probe(ops::project(&tape, &x, &[parameter(1, [12, 6])], &[], None));
        x = probe(ops::gated_activation(&tape, x, Activation::Silu));
        let adapters =
            LowRank { a: vec![parameter(2, [2, 6])], b: vec![parameter(3, [6, 2])], firsts: vec![0], scaling: 1.0 };
        let y = Var::constant(device.zeros([3, 6], Dtype::F32));
        x = probe(ops::add_low_rank(&tape, y, &x, adapters));
        let scale = Scale::Adapted { magnitude: parameter(4, [1, 6]), norms: random(device, 9, [1, 6]) };
        x = probe(ops::rescale(&tape, x, vec![scale], &[], None));
        x = probe(ops::gated_project(&tape, &x, &[parameter(5, [4, 6]), parameter(6, [4, 6])], Activation::Silu));
        x = ops::project(&tape, &x, &[parameter(7, [2, 4])], &[], None);
        let dy = random(device, 10, x.value.shape());
        tape.backward(Some((&x, dy)), None, &mut Gradients::new(8));
        let found = found.borrow();
        // The last place runs first; there the values of all places below are still kept, its own and those above not.
        assert_eq!(found.len(), 7);
        for (place, kept) in (0..7).rev().zip(found.iter()) {
            let expected: Vec<bool> = (0..7).map(|other| other < place).collect();
            assert_eq!(kept, &expected, "{}: at place {place}", device.name());
        }
    }
}

/// A step is consumed, with all that it holds, before the one below it runs; so is one without a gradient.
#[test]
fn a_step_is_dropped_before_the_next() {
    let tape = Tape::recording();
    let token = Arc::new(());
    let x = tape.input(random(&CPU, 1, [1, 1]));
    let (node, seen) = (x.node(), Rc::new(Cell::new(0)));
    let (weak, of_step) = (Arc::downgrade(&token), seen.clone());
    let y = tape.record(x.value.clone(), true, move |dy, backward| {
        of_step.set(weak.strong_count());
        backward.add(node, dy);
    });
    let (node, held) = (y.node(), token.clone());
    let z = tape.record(y.value.clone(), true, move |dy, backward| {
        let _held = &held;
        backward.add(node, dy);
    });
    let held = token.clone();
    let _unused = tape.record(y.value.clone(), true, move |_, _| {
        let _held = &held;
        panic!("nothing used this output");
    });
    assert_eq!(Arc::strong_count(&token), 3);
    let found = tape.backward(Some((&z, random(&CPU, 2, [1, 1]))), Some(&x), &mut Gradients::default());
    assert_eq!((seen.get(), found.unwrap().to_host().to_vec()), (1, values(2, 1)));
}

#[test]
fn gradients_of_two_passes_add() {
    let _counters = exclusive();
    for device in ALL {
        let pass = |gradients: &mut Gradients| {
            let tape = Tape::recording();
            let values = every_operation(&tape, device, Leaf::tracked);
            // From the loss, and from a seed that the second of the values gets beside it.
            tape.backward(Some((&values[1], random(device, 50, [4, 6]))), None, gradients);
        };
        let (mut once, mut twice) = (Gradients::new(SLOTS), Gradients::new(SLOTS));
        pass(&mut once);
        pass(&mut twice);
        pass(&mut twice);
        for slot in 0..SLOTS {
            let [once, twice] = [&once, &twice].map(|gradients| gradients.get(slot).unwrap().to_host());
            let doubled: Vec<f32> = once.iter().map(|gradient| 2.0 * gradient).collect();
            // The embedding's rows are added one by one.
            assert!(relative_error(&twice, &doubled) < 1e-6, "{}: slot {slot}", device.name());
            assert!(once.iter().any(|&gradient| gradient != 0.0));
        }
    }
}

/// A value's gradient that is f32 where the value is bf16 is not lost where a projection adds to it.
#[test]
fn a_seed_of_another_dtype_counts() {
    let _counters = exclusive();
    for device in ALL {
        let gradient = |dtype| {
            let tape = Tape::recording();
            let x = tape.input(random(device, 1, [3, 5]).cast(Dtype::Bf16));
            let leaf = Leaf::constant(random(device, 2, [7, 5]));
            let y = ops::project(&tape, &x, &[leaf], &[], None);
            let head = Leaf::constant(random(device, 3, [4, 7]));
            let spec = CrossEntropySpec { targets: Arc::new(vec![1, 0, 3]), scale: LossScale::Same(1.0) };
            assert!(ops::cross_entropy(&tape, &y, &head, &spec).is_tracked());
            let dx = random(device, 4, [3, 5]).cast(Dtype::Bf16).cast(dtype);
            tape.backward(Some((&x, dx)), Some(&x), &mut Gradients::default()).unwrap().to_host().into_owned()
        };
        assert_eq!(gradient(Dtype::F32), gradient(Dtype::Bf16), "{}", device.name());
    }
}

#[test]
fn slots_hold_gradients() {
    let mut gradients = Gradients::new(2);
    let one = || CPU.from_host(vec![1.0, 2.0], [1, 2]);
    gradients.add(1, one());
    gradients.add(1, one());
    // There is no such slot.
    gradients.add(2, one());
    gradients.put(2, one());
    assert!(gradients.get(0).is_none() && gradients.get(2).is_none() && gradients.take(2).is_none());
    assert_eq!(*gradients.get(1).unwrap().to_host(), [2.0, 4.0]);
    *gradients.get_mut(1).unwrap() = CPU.from_host(vec![5.0, 6.0], [1, 2]);
    let taken = gradients.take(1).unwrap();
    assert_eq!((&*taken.to_host(), gradients.iter().count()), (&[5.0, 6.0][..], 0));
    gradients.put(0, taken);
    assert_eq!(gradients.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [0]);
}

#[test]
fn an_untracked_weight_has_no_gradient_and_costs_no_product() {
    let _counters = exclusive();
    let (tokens, width, outs) = (3, 5, [4, 2, 6]);
    for device in ALL {
        let products = |trains: [bool; 3], input: bool| {
            let before = executed();
            let tape = Tape::recording();
            let x = random(device, 1, [tokens, width]);
            let x = if input { tape.input(x) } else { Var::constant(x) };
            let weights = [0, 1, 2].map(|slot| {
                let value = random(device, 10 + slot as u64, [outs[slot], width]);
                if trains[slot] { Leaf::tracked(value, slot) } else { Leaf::constant(value) }
            });
            let y = ops::project(&tape, &x, &weights, &[], None);
            let (dy, mut gradients) = (random(device, 2, [tokens, 12]), Gradients::new(3));
            let dx = tape.backward(Some((&y, dy)), Some(&x), &mut gradients);
            assert_eq!(dx.is_some(), input);
            (executed().since(&before), [0, 1, 2].map(|slot| gradients.get(slot).is_some()))
        };
        let one = |out: usize| 2 * (tokens * width * out) as u64;
        let all = Flops { forward: one(12), input_gradient: one(12), weight_gradient: one(12) };
        for (trains, weight_gradient) in
            [([true; 3], one(12)), ([true, false, true], one(10)), ([false, true, false], one(2)), ([false; 3], 0)]
        {
            assert_eq!(products(trains, true), (Flops { weight_gradient, ..all }, trains));
            assert_eq!(products(trains, false), (Flops { weight_gradient, input_gradient: 0, ..all }, trains));
        }
    }
}

/// Of adapters every product counts, and none that a gradient does not need.
#[test]
fn the_products_of_adapters_count() {
    let _counters = exclusive();
    // tokens · (ranks 2 and 3) · (in 5), and to 4 and 6 columns.
    let (reduced, expanded) = ([2 * 7 * 2 * 5, 2 * 7 * 3 * 5], [2 * 7 * 4 * 2, 2 * 7 * 6 * 3]);
    let sum = |products: [u64; 2]| products[0] + products[1];
    let executed = |input: bool, of_a: [bool; 2], of_b: [bool; 2]| {
        let before = executed();
        let tape = Tape::recording();
        let leaf = |trains, slot: usize, shape| {
            let value = random(&CPU, slot as u64, shape);
            if trains { Leaf::tracked(value, slot) } else { Leaf::constant(value) }
        };
        let a = vec![leaf(of_a[0], 0, [2, 5]), leaf(of_a[1], 1, [3, 5])];
        let b = vec![leaf(of_b[0], 2, [4, 2]), leaf(of_b[1], 3, [6, 3])];
        let x = random(&CPU, 7, [7, 5]);
        let x = if input { tape.input(x) } else { Var::constant(x) };
        let y = Var::constant(random(&CPU, 8, [7, 10]));
        let y = ops::add_low_rank(&tape, y, &x, LowRank { a, b, firsts: vec![0, 4], scaling: 1.0 });
        let mut gradients = Gradients::new(4);
        let dx = tape.backward(Some((&y, random(&CPU, 9, [7, 10]))), Some(&x), &mut gradients);
        assert_eq!(dx.is_some(), input);
        let given: Vec<bool> = (0..4).map(|slot| gradients.get(slot).is_some()).collect();
        assert_eq!(given, [of_a, of_b].concat());
        let executed = executed().since(&before);
        assert_eq!(executed.forward, sum(reduced) + sum(expanded));
        (executed.input_gradient, executed.weight_gradient)
    };
    let (yes, no) = ([true; 2], [false; 2]);
    assert_eq!(executed(true, yes, yes), (sum(expanded) + sum(reduced), sum(expanded) + sum(reduced)));
    assert_eq!(executed(true, no, no), (sum(expanded) + sum(reduced), 0));
    assert_eq!(executed(false, yes, no), (sum(expanded), sum(reduced)));
    assert_eq!(executed(false, no, [false, true]), (0, expanded[1]));
}
