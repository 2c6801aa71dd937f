//! Low-rank adapters.

use grades_kernels::quant::{Nf4, PackedMatrix};

use super::super::{ALL, random, randoms, references, values};
use super::{DTYPES, compare, operand};
use crate::device::{DeviceRef, Gain};
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// Tokens, the width of y and x; rank, first column of y and columns of each adapter.
type Case = (usize, usize, &'static [(usize, usize, usize)]);

const CASES: [Case; 6] = [
    (0, 5, &[(2, 0, 5)]),
    (1, 1, &[(1, 0, 1)]),
    (1, 5, &[(2, 0, 5)]),
    (3, 9, &[(2, 0, 4), (3, 7, 2)]),
    (70, 67, &[(33, 1, 65)]),
    (13, 50, &[(5, 17, 33), (1, 3, 1)]),
];

fn b_and_firsts(device: DeviceRef, adapters: &[(usize, usize, usize)]) -> (Vec<Tensor>, Vec<usize>) {
    let b = randoms(device, 10, adapters.iter().map(|&(rank, _, out)| [out, rank]));
    (b, adapters.iter().map(|(_, first, _)| *first).collect())
}

fn ranks(adapters: &[(usize, usize, usize)]) -> usize {
    adapters.iter().map(|(rank, ..)| rank).sum()
}

#[test]
fn reduce() {
    for dtype in DTYPES {
        for (tokens, width, adapters) in CASES {
            compare(dtype, &format!("{tokens}·{adapters:?}"), |device| {
                let a = randoms(device, 10, adapters.iter().map(|&(rank, ..)| [rank, width]));
                vec![device.reduce(&operand(device, 1, [tokens, width], dtype), &references(&a), 0.7)]
            });
        }
    }
}

#[test]
fn expand() {
    // Behind a residual y is f32 whatever u is.
    for (of_y, of_u) in [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::Bf16), (Dtype::F32, Dtype::Bf16)] {
        for (tokens, width, adapters) in CASES {
            compare(of_u, &format!("{tokens}·{adapters:?} onto {}", of_y.name()), |device| {
                let (b, firsts) = b_and_firsts(device, adapters);
                let u = operand(device, 2, [tokens, ranks(adapters)], of_u);
                let y = operand(device, 1, [tokens, width], of_y);
                vec![device.expand(y, &u, &references(&b), &firsts)]
            });
        }
    }
}

#[test]
fn expand_input_gradient() {
    for dtype in DTYPES {
        for (tokens, width, adapters) in CASES {
            compare(dtype, &format!("{tokens}·{adapters:?}"), |device| {
                let (b, firsts) = b_and_firsts(device, adapters);
                let dy = operand(device, 1, [tokens, width], dtype);
                vec![device.expand_input_gradient(&dy, &references(&b), &firsts, 0.7)]
            });
        }
    }
}

const WEIGHTS: [(usize, usize, usize); 4] = [(1, 1, 1), (5, 7, 2), (1, 65, 3), (67, 33, 9)];

#[test]
fn adapted_row_norms() {
    for (out, width, rank) in WEIGHTS {
        for scaling in [0.0, 0.7, -2.0] {
            compare(Dtype::F32, &format!("{out}·{width} + {scaling} · rank {rank}"), |device| {
                let weight = random(device, 1, [out, width]);
                let (a, b) = (random(device, 2, [rank, width]), random(device, 3, [out, rank]));
                let squares = device.row_squares(&weight);
                vec![device.adapted_row_norms(&weight, &squares, &a, &b, scaling)]
            });
        }
        compare(Dtype::F32, "beside a packed weight", |device| {
            let blocks = Nf4::encode(&values(1, out * width)).unwrap();
            let weight = device.from_packed(PackedMatrix::nf4(blocks, out, width).unwrap());
            let (a, b) = (random(device, 2, [rank, width]), random(device, 3, [out, rank]));
            let squares = device.row_squares(&weight);
            vec![device.adapted_row_norms(&weight, &squares, &a, &b, 0.7), squares]
        });
    }
}

/// A row of zeros has no direction: its norm is not 0, so that nothing becomes infinite, and it stays what it is.
#[test]
fn a_row_of_zeros_stays() {
    for device in ALL {
        let (a, b) = (random(device, 2, [2, 5]), device.zeros([3, 2], Dtype::F32));
        let zeros = device.zeros([3, 5], Dtype::F32);
        let norms = device.adapted_row_norms(&zeros, &device.row_squares(&zeros), &a, &b, 0.7);
        assert!(norms.to_host().iter().all(|&norm| norm > 0.0 && norm < 1e-15), "{}", device.name());
        let mut weight = device.from_host([[0.0; 5].to_vec(), values(1, 5)].concat(), [2, 5]);
        let lengths = device.from_host(vec![0.5, 2.0], [1, 2]);
        device.fold(&mut weight, &a, &device.zeros([2, 2], Dtype::F32), 0.7, Some(&lengths));
        let squares = device.row_squares(&weight);
        let squares = squares.to_host();
        assert!(squares[0] == 0.0 && (squares[1] - 4.0).abs() < 1e-5, "{}: {squares:?}", device.name());
    }
}

#[test]
fn gains() {
    compare(Dtype::F32, "gains", |device| {
        let positive =
            |seed, out: usize| device.from_host(values(seed, out).iter().map(|v| v + 2.0).collect(), [1, out]);
        let ([m1, m2], [n1, n2]) = ([1, 2].map(|seed| positive(seed, 7)), [3, 4].map(|seed| positive(seed, 7)));
        let parts = [
            Gain::Adapted { magnitude: &m1, norms: &n1 },
            Gain::Plain(3),
            Gain::Adapted { magnitude: &m2, norms: &n2 },
            Gain::Plain(0),
        ];
        let dgains = random(device, 5, [1, 17]);
        let gradients = [(0, &n1), (10, &n2)].map(|(first, norms)| device.gains_backward(&dgains, first, norms));
        [vec![device.gains(&parts), device.gains(&[Gain::Plain(2)])], gradients.to_vec()].concat()
    });
}

#[test]
fn rescale() {
    for dtype in DTYPES {
        for (tokens, outs) in [(0, [2, 3]), (1, [1, 1]), (13, [17, 33])] {
            let total = outs.iter().sum();
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{tokens}·{outs:?}, bias {with_bias}, residual {with_residual}");
                compare(dtype, &what, |device| {
                    let (y, gains) = (operand(device, 1, [tokens, total], dtype), random(device, 2, [1, total]));
                    let biases = randoms(device, 3, outs.iter().filter(|_| with_bias).map(|&out| [1, out]));
                    let residual = with_residual.then(|| random(device, 6, [tokens, total]));
                    let scaled = device.rescale(&y, &gains, &references(&biases), residual);
                    assert_eq!(scaled.dtype(), if with_residual { Dtype::F32 } else { dtype });
                    // Behind a residual dy is f32.
                    let dy = operand(device, 7, [tokens, total], scaled.dtype());
                    let (dx, dgains) = device.rescale_backward(&dy, &y, &gains);
                    assert_eq!((dx.dtype(), dgains.dtype()), (dtype, Dtype::F32));
                    vec![scaled, dx, dgains]
                });
            }
        }
    }
}

#[test]
fn fold() {
    for (out, width, rank) in WEIGHTS {
        for with_magnitudes in [false, true] {
            compare(Dtype::F32, &format!("{out}·{width} of rank {rank}, {with_magnitudes}"), |device| {
                let mut weight = random(device, 1, [out, width]);
                let (a, b) = (random(device, 2, [rank, width]), random(device, 3, [out, rank]));
                let magnitudes = random(device, 4, [1, out]);
                device.fold(&mut weight, &a, &b, 0.7, Some(&magnitudes).filter(|_| with_magnitudes));
                vec![weight]
            });
        }
    }
}

#[test]
fn row_squares() {
    for dtype in DTYPES {
        for shape in [[0, 3], [1, 1], [5, 33], [67, 1]] {
            compare(dtype, &format!("{shape:?}"), |device| {
                let squares = device.row_squares(&operand(device, 1, shape, dtype));
                assert_eq!(squares.dtype(), Dtype::F32);
                vec![squares]
            });
        }
    }
}
