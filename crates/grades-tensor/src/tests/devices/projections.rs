//! Linear layers.

use super::super::{ACTIVATIONS, random, randoms, references, side_by_side};
use super::{DTYPES, compare, operand, rounded, those};
use crate::dtype::Dtype;

/// Tokens, input width, output widths.
const SIZES: [(usize, usize, &[usize]); 9] = [
    (0, 5, &[4, 2]),
    (1, 1, &[1]),
    (1, 7, &[5]),
    (3, 5, &[4, 2, 3]),
    (3, 6, &[4, 1, 3]),
    (13, 33, &[17, 8, 8]),
    (1, 65, &[31, 1]),
    (70, 65, &[67]),
    (70, 66, &[67, 50]),
];

fn weight_shapes(outs: &[usize], width: usize) -> impl Iterator<Item = [usize; 2]> {
    outs.iter().map(move |&out| [out, width])
}

#[test]
fn project() {
    for dtype in DTYPES {
        for (tokens, width, outs) in SIZES {
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{tokens}·{width}→{outs:?}, bias {with_bias}, residual {with_residual}");
                compare(dtype, &what, |device| {
                    let weights = randoms(device, 10, weight_shapes(outs, width));
                    let biases = randoms(device, 20, outs.iter().filter(|_| with_bias).map(|&out| [1, out]));
                    let residual = with_residual.then(|| random(device, 30, [tokens, outs.iter().sum()]));
                    let x = operand(device, 1, [tokens, width], dtype);
                    let y = device.project(&x, &references(&weights), &references(&biases), residual);
                    assert_eq!(y.dtype(), if with_residual { Dtype::F32 } else { dtype });
                    vec![y]
                });
            }
        }
    }
}

#[test]
fn project_input_gradient() {
    for dtype in DTYPES {
        for (tokens, width, outs) in SIZES {
            for with_onto in [false, true] {
                compare(dtype, &format!("{tokens}·{width}←{outs:?}, onto {with_onto}"), |device| {
                    let weights = (10..).zip(weight_shapes(outs, width));
                    let weights: Vec<_> = weights.map(|(seed, shape)| rounded(device, seed, shape, dtype)).collect();
                    let dy = operand(device, 2, [tokens, outs.iter().sum()], dtype);
                    let onto = with_onto.then(|| operand(device, 3, [tokens, width], dtype));
                    vec![device.project_input_gradient(&dy, &references(&weights), onto)]
                });
            }
        }
    }
}

#[test]
fn project_weight_gradients() {
    for dtype in DTYPES {
        for (tokens, width, outs) in SIZES {
            let all = side_by_side(outs);
            let total = outs.iter().sum::<usize>();
            // Each weight, parts of them, and none.
            let parts = vec![total / 2..total, 0..total.div_ceil(3)];
            for ranges in [all, parts, Vec::new()] {
                for of in [0..width, width / 3..width, width - 1..width] {
                    compare(dtype, &format!("{tokens}: {ranges:?} by {of:?} of {width}"), |device| {
                        let dy = operand(device, 2, [tokens, total], dtype);
                        let x = operand(device, 1, [tokens, width], dtype);
                        let gradients = device.project_weight_gradients(&dy, &x, of.clone(), &ranges);
                        assert!(gradients.iter().all(|gradient| gradient.dtype() == Dtype::F32));
                        gradients
                    });
                }
            }
        }
    }
}

#[test]
fn column_sums() {
    for dtype in DTYPES {
        for (rows, columns) in [(0, 4), (1, 1), (9, 33), (67, 100)] {
            for range in [0..columns, columns / 2..columns, columns / 3..columns / 3 + 1] {
                compare(dtype, &format!("{range:?} of {rows}·{columns}"), |device| {
                    let sums = device.column_sums(&operand(device, 1, [rows, columns], dtype), range.clone());
                    assert_eq!(sums.dtype(), Dtype::F32);
                    vec![sums]
                });
            }
        }
    }
}

#[test]
fn gated_project() {
    for dtype in DTYPES {
        for (tokens, width, out) in [(0, 3, 4), (1, 1, 1), (1, 7, 5), (13, 34, 17), (70, 64, 97)] {
            for activation in ACTIVATIONS {
                for keep in [false, true] {
                    compare(dtype, &format!("{tokens}·{width}→{out}, {activation:?}"), |device| {
                        let [gate, up] = [2, 3].map(|seed| rounded(device, seed, [out, width], dtype));
                        let x = operand(device, 1, [tokens, width], dtype);
                        let (y, kept) = device.gated_project(&x, [&gate, &up], activation, keep);
                        assert_eq!((y.dtype(), kept.is_some()), (dtype, keep));
                        those([Some(y), kept])
                    });
                }
            }
        }
    }
}
