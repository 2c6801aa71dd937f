//! The head of a language model.

use std::sync::Arc;

use super::super::{ALL, random};
use super::{DTYPES, compare, operand, those};
use crate::dtype::Dtype;
use crate::spec::{CrossEntropySpec, IGNORE_INDEX, Label, LossScale, labels_of};

/// Vocabulary, width, targets.
fn cases(dtype: Dtype) -> Vec<(usize, usize, Vec<i64>)> {
    let mut cases = vec![
        (5, 4, Vec::new()),
        (5, 4, vec![IGNORE_INDEX, IGNORE_INDEX]),
        (11, 8, vec![3, IGNORE_INDEX, 10, 0, IGNORE_INDEX]),
        (301, 33, (0..67).map(|i| i * 4).collect()),
    ];
    // In bf16 the gradients of the logits are rounded too, and the weight once more: over few numbers that does not average.
    if dtype == Dtype::F32 {
        cases.extend([(2, 1, vec![1]), (1, 3, vec![0, 0]), (11, 7, vec![3, IGNORE_INDEX, 10, 0, IGNORE_INDEX])]);
        cases.push((11, 8, vec![IGNORE_INDEX, 3, 3]));
    }
    cases
}

#[test]
fn cross_entropy() {
    for dtype in DTYPES {
        for (vocabulary, width, targets) in cases(dtype) {
            let spec = CrossEntropySpec { targets: Arc::new(targets), scale: LossScale::Same(0.37) };
            for (want_hidden, want_weight) in [(false, false), (true, false), (false, true), (true, true)] {
                compare(dtype, &format!("{vocabulary}·{width}, {want_hidden}, {want_weight}"), |device| {
                    let hidden = operand(device, 1, [spec.targets.len(), width], dtype);
                    let weight = random(device, 2, [vocabulary, width]);
                    let (loss, dhidden, dweight) =
                        device.cross_entropy(&hidden, &weight, &spec, want_hidden, want_weight);
                    assert_eq!((loss.shape(), loss.dtype()), ([1, 1], Dtype::F32));
                    assert!(dhidden.as_ref().is_none_or(|gradient| gradient.dtype() == dtype));
                    assert!(dweight.as_ref().is_none_or(|gradient| gradient.dtype() == Dtype::F32));
                    assert_eq!((dhidden.is_some(), dweight.is_some()), (want_hidden, want_weight));
                    those([Some(loss), dhidden, dweight])
                });
            }
        }
    }
}

#[test]
fn cross_entropy_with_a_scale_a_row() {
    for dtype in DTYPES {
        for (vocabulary, width, targets) in cases(dtype) {
            let scales = (0..targets.len()).map(|row| [0.37, -0.21, 0.0, 1.5][row % 4]).collect();
            let spec = CrossEntropySpec { targets: Arc::new(targets), scale: LossScale::Each(Arc::new(scales)) };
            compare(dtype, &format!("{vocabulary}·{width}, scaled"), |device| {
                let hidden = operand(device, 1, [spec.targets.len(), width], dtype);
                let weight = random(device, 2, [vocabulary, width]);
                let (loss, dhidden, dweight) = device.cross_entropy(&hidden, &weight, &spec, true, true);
                those([Some(loss), dhidden, dweight])
            });
        }
    }
}

#[test]
fn a_batch_without_targets_has_no_loss_and_no_gradient() {
    let spec = CrossEntropySpec { targets: Arc::new(vec![IGNORE_INDEX; 3]), scale: LossScale::Same(1.0) };
    for device in ALL {
        for dtype in DTYPES {
            let (hidden, weight) = (operand(device, 1, [3, 5], dtype), random(device, 2, [7, 5]));
            let (loss, dhidden, dweight) = device.cross_entropy(&hidden, &weight, &spec, true, true);
            for zeros in [Some(loss), dhidden, dweight] {
                assert!(zeros.unwrap().to_host().iter().all(|&value| value == 0.0), "{}", device.name());
            }
        }
    }
}

#[test]
fn log_likelihoods() {
    for dtype in DTYPES {
        for (vocabulary, width, targets) in cases(dtype) {
            // A second label beside each.
            let two = |label: Label| [label, Label { token: (label.token + 1) % vocabulary as u32, ..label }];
            let labels: Vec<Label> = labels_of(&targets).into_iter().flat_map(two).collect();
            compare(dtype, &format!("{vocabulary}·{width}, {} labels", labels.len()), |device| {
                let hidden = operand(device, 1, [targets.len(), width], dtype);
                let found = device.log_likelihoods(&hidden, &random(device, 2, [vocabulary, width]), &labels);
                assert_eq!((found.shape(), found.dtype()), ([1, labels.len()], Dtype::F32));
                vec![found]
            });
        }
    }
}

#[test]
fn labels_are_the_targets_that_there_are() {
    let labels = labels_of(&[3, IGNORE_INDEX, 0, IGNORE_INDEX]);
    assert_eq!(labels, [Label { row: 0, token: 3 }, Label { row: 2, token: 0 }]);
}
