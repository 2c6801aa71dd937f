//! What training does to parameters and gradients.

use std::cell::RefCell;

use grades::Norm;

use super::super::{ALL, random, values};
use super::{compare, compare_exactly};
use crate::cpu::CPU;
use crate::device::{Blockwise, DeviceRef, Measure, Update};
use crate::dtype::Dtype;
use crate::reference::REFERENCE;
use crate::spec::{AdamW, AdjustLr, Lion, Muon, Sgd, StateMap, Sums, state_scales};
use crate::tensor::Tensor;

/// The shape of a parameter, and the range of its elements that has a gradient of that shape.
const PARTS: [([usize; 2], usize, [usize; 2]); 5] =
    [([5, 7], 0, [5, 7]), ([1, 1], 0, [1, 1]), ([9, 33], 33, [4, 33]), ([1, 67], 3, [1, 64]), ([3, 5], 5, [0, 5])];

/// Three steps of a parameter with a state of `states` tensors, by `step`, which gets the number of the step.
fn steps<const STATES: usize>(
    device: DeviceRef,
    (shape, first, of): ([usize; 2], usize, [usize; 2]),
    step: impl Fn(Update<'_>, [&mut Tensor; STATES], u64),
) -> Vec<Tensor> {
    let mut parameter = random(device, 1, shape);
    let mut states: [Tensor; STATES] = std::array::from_fn(|_| device.zeros(of, Dtype::F32));
    for number in 1..=3 {
        let gradient = random(device, 10 + number, of);
        let update = Update { parameter: &mut parameter, first, gradient: &gradient, gradient_scale: 0.3 };
        step(update, states.each_mut(), number);
    }
    // Elements without a gradient are as they were.
    let (before, after) = (values(1, parameter.len()), parameter.to_host().into_owned());
    let end = first + of[0] * of[1];
    assert_eq!((&after[..first], &after[end..]), (&before[..first], &before[end..]));
    [vec![parameter], states.to_vec()].concat()
}

#[test]
fn adamw() {
    for part in PARTS {
        for weight_decay in [0.0, 0.1] {
            compare(Dtype::F32, &format!("{part:?}, decay {weight_decay}"), |device| {
                let gains = RefCell::new(Vec::new());
                let rate = |step: u64| 0.05 * step as f64;
                let tensors = steps(device, part, |update, moments, step| {
                    let (learning_rate, gain_of) = (rate(step), Some(rate(step - 1)));
                    let options =
                        AdamW { learning_rate, beta1: 0.8, beta2: 0.95, epsilon: 1e-3, weight_decay, step, gain_of };
                    gains.borrow_mut().push(device.adamw(update, moments, &options) as f32);
                });
                let gains = gains.into_inner();
                assert_eq!((gains[0], gains[1] == 0.0), (0.0, part.2[0] == 0));
                [tensors, vec![device.from_host(gains, [1, 3])]].concat()
            });
        }
    }
}

/// In f64 a number near the middle between two codes may get the other one; here there is none.
#[test]
fn adamw_8bit() {
    for part @ (_, _, of) in
        [([5, 7], 0, [5, 7]), ([40, 33], 66, [37, 33]), ([1, 1030], 3, [1, 1024]), ([3, 5], 5, [0, 5])]
    {
        for weight_decay in [0.0, 0.1] {
            compare(Dtype::F32, &format!("{part:?}, decay {weight_decay}"), |device| {
                let scales = || device.zeros([1, state_scales(of[0] * of[1])], Dtype::F32);
                let codes = || device.zeros(of, Dtype::U8);
                let moments = RefCell::new([(codes(), scales()), (codes(), scales())]);
                let parameter = steps(device, part, |update, []: [&mut Tensor; 0], step| {
                    let (beta1, beta2, learning_rate) = (0.8, 0.95, 0.05 * step as f64);
                    let options =
                        AdamW { learning_rate, beta1, beta2, epsilon: 1e-3, weight_decay, step, gain_of: None };
                    let mut moments = moments.borrow_mut();
                    let moments = moments.each_mut().map(|(codes, scales)| Blockwise { codes, scales });
                    device.adamw_8bit(update, moments, &options);
                });
                let decoded = [StateMap::signed(), StateMap::unsigned()].into_iter().zip(moments.into_inner());
                let decoded = decoded.map(|(map, (codes, scales))| {
                    let codes: Vec<u8> = codes.to_host().iter().map(|code| *code as u8).collect();
                    let mut values = vec![0.0; codes.len()];
                    map.decode(&codes, &scales.to_host(), &mut values);
                    device.from_host(values, of)
                });
                parameter.into_iter().chain(decoded).collect()
            });
        }
    }
}

#[test]
fn lion() {
    for part in PARTS {
        for weight_decay in [0.0, 0.1] {
            let options = Lion { learning_rate: 0.05, beta1: 0.8, beta2: 0.95, weight_decay };
            compare(Dtype::F32, &format!("{part:?}, decay {weight_decay}"), |device| {
                steps(device, part, |update, [momentum]: [&mut Tensor; 1], _| device.lion(update, momentum, &options))
            });
        }
    }
}

#[test]
fn muon() {
    for (part, nesterov, adjust) in [
        (([5, 7], 0, [5, 7]), true, AdjustLr::Original),
        (([9, 33], 33, [4, 33]), false, AdjustLr::SpectralUnclamped),
        (([40, 17], 17, [37, 17]), true, AdjustLr::MatchRmsAdamW),
        (([1, 67], 3, [1, 64]), true, AdjustLr::Original),
        (([8, 8], 0, [8, 8]), false, AdjustLr::Original),
        (([3, 5], 5, [0, 5]), true, AdjustLr::Original),
    ] {
        let options = Muon { learning_rate: 0.05, momentum: 0.9, nesterov, ns_steps: 5, adjust, weight_decay: 0.1 };
        compare(Dtype::F32, &format!("{part:?}"), |device| {
            steps(device, part, |update, [momentum]: [&mut Tensor; 1], _| device.muon(update, momentum, &options))
        });
    }
}

#[test]
fn sgd() {
    for part in PARTS {
        for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
            for weight_decay in [0.0, 0.1] {
                let options = |step| Sgd { learning_rate: 0.05, momentum, nesterov, weight_decay, first: step == 1 };
                let what = format!("{part:?}, {:?}", options(1));
                compare(Dtype::F32, &what, |device| {
                    steps(device, part, |update, [velocity]: [&mut Tensor; 1], step| {
                        device.sgd(update, Some(velocity).filter(|_| momentum > 0.0), &options(step));
                    })
                });
            }
        }
    }
}

/// The first velocity is the gradient, whatever the state held before.
#[test]
fn the_first_velocity_is_the_gradient() {
    for device in ALL {
        let (mut parameter, gradient) = (random(device, 1, [3, 5]), random(device, 2, [3, 5]));
        let mut velocity = random(device, 3, [3, 5]);
        let update = Update { parameter: &mut parameter, first: 0, gradient: &gradient, gradient_scale: 1.0 };
        let options = Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0, first: true };
        device.sgd(update, Some(&mut velocity), &options);
        assert_eq!(velocity.to_host(), gradient.to_host(), "{}", device.name());
    }
}

fn close(found: Option<f64>, expected: Option<f64>) -> bool {
    match (found, expected) {
        // The spectral norm comes from a power iteration that ends at this tolerance.
        (Some(found), Some(expected)) => (found - expected).abs() <= 1e-5 * expected.abs(),
        (None, None) => true,
        _ => false,
    }
}

#[test]
fn measure() {
    let norms = [Norm::L1, Norm::Frobenius, Norm::Spectral, Norm::Inf, Norm::One];
    let mut asked = vec![(None, false, false), (None, true, false), (None, true, true)];
    for norm in norms {
        asked.extend([(false, false), (true, false), (true, true)].map(|(p, want)| (Some(norm), p, want)));
    }
    for shape in [[1, 1], [5, 7], [1, 67], [33, 9], [0, 4]] {
        let run = |device: DeviceRef| {
            let (gradient, before) = (random(device, 1, shape), random(device, 2, shape));
            let measure = |&(norm, with_previous, want_previous)| Measure {
                gradient: &gradient,
                previous: Some(&before).filter(|_| with_previous),
                norm,
                want_previous,
            };
            device.measure(&asked.iter().map(measure).collect::<Vec<_>>())
        };
        let (found, expected) = (run(&CPU), run(&REFERENCE));
        assert_eq!(found.len(), asked.len());
        for ((found, expected), &(norm, with_previous, want_previous)) in found.iter().zip(&expected).zip(&asked) {
            let what = format!("{norm:?} of {shape:?}, previous {with_previous}, {want_previous}");
            assert_eq!(expected.norm.is_some(), norm.is_some(), "{what}");
            assert_eq!(expected.change.is_some(), norm.is_some() && with_previous, "{what}");
            assert_eq!(expected.previous.is_some(), norm.is_some() && want_previous, "{what}");
            assert!(close(Some(found.squares), Some(expected.squares)), "{what}: {found:?}, not {expected:?}");
            assert!(close(found.norm, expected.norm), "{what}: {found:?}, not {expected:?}");
            assert!(close(found.previous, expected.previous), "{what}: {found:?}, not {expected:?}");
            assert!(close(found.change, expected.change), "{what}: {found:?}, not {expected:?}");
        }
    }
}

#[test]
fn measure_by_hand() {
    for device in ALL {
        let gradient = device.from_host(vec![3.0, -4.0], [1, 2]);
        let previous = device.from_host(vec![1.0, -5.0], [1, 2]);
        let measure = |norm| Measure { gradient: &gradient, previous: Some(&previous), norm, want_previous: true };
        let found = device.measure(&[measure(Some(Norm::L1)), measure(None)]);
        let sums = Sums { squares: 25.0, norm: Some(7.0), previous: Some(6.0), change: Some(3.0) };
        assert_eq!(found, [sums, Sums { squares: 25.0, ..Sums::default() }]);
    }
}

#[test]
fn mask() {
    for (first, count) in [(0, 21), (4, 9), (20, 1), (21, 0)] {
        let keep: Vec<bool> = values(9, count).iter().map(|&value| value > 0.0).collect();
        compare_exactly("mask", |device| {
            let mut tensor = random(device, 1, [3, 7]);
            device.mask(&mut tensor, first, &keep);
            let found = tensor.to_host().into_owned();
            for (i, (found, before)) in found.iter().zip(values(1, 21)).enumerate() {
                let kept = i.checked_sub(first).and_then(|i| keep.get(i)).is_none_or(|keep| *keep);
                assert_eq!(*found, if kept { before } else { 0.0 });
            }
            vec![tensor]
        });
    }
}

#[test]
fn codes_are_kept_copied_and_masked() {
    for device in ALL {
        let numbers = vec![0.0, 1.0, 127.0, 128.0, 254.0, 255.0];
        let mut codes = device.from_host(numbers.clone(), [2, 3]).cast(Dtype::U8);
        let copy = device.copy(&codes);
        device.mask(&mut codes, 1, &[true, false, true, false]);
        assert_eq!((*codes.to_host()).to_vec(), [0.0, 1.0, 0.0, 128.0, 0.0, 255.0], "{}", device.name());
        assert_eq!((copy.dtype(), (*copy.to_host()).to_vec()), (Dtype::U8, numbers));
        assert_eq!(*device.zeros([1, 2], Dtype::U8).to_host(), [0.0; 2]);
    }
    let cpu: DeviceRef = &CPU;
    assert_eq!(cpu.zeros([3, 5], Dtype::U8).bytes(), 15);
}

#[test]
fn part() {
    for (first, shape) in [(0, [3, 7]), (7, [1, 7]), (5, [2, 4]), (21, [0, 7])] {
        compare_exactly("part", |device| {
            let found = device.part(&random(device, 1, [3, 7]), first, shape);
            assert_eq!(*found.to_host(), values(1, 21)[first..][..shape[0] * shape[1]]);
            let mut back = random(device, 2, [3, 7]);
            device.set_part(&mut back, first, &found);
            for (i, found) in back.to_host().iter().enumerate() {
                let of_part = (first..first + shape[0] * shape[1]).contains(&i);
                assert_eq!(*found, values(if of_part { 1 } else { 2 }, 21)[i]);
            }
            vec![found, back]
        });
    }
}

#[test]
fn average() {
    for (first, shape, weight) in [(0, [3, 7], 0.25), (7, [1, 7], 1.0), (5, [2, 4], 0.6), (21, [0, 7], 0.5)] {
        compare(Dtype::F32, "average", |device| {
            let (tensor, mut average) = (random(device, 1, [3, 7]), random(device, 2, shape));
            device.average(&mut average, &tensor, first, weight);
            let before = values(2, shape[0] * shape[1]);
            for ((found, before), value) in average.to_host().iter().zip(before).zip(&values(1, 21)[first..]) {
                assert!((found - (before + weight * (value - before))).abs() < 1e-6);
            }
            vec![average]
        });
    }
}
