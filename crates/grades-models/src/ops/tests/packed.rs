//! Projections through packed weights against the same projections through the decoded ones.

use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::{Device, Tensor, TensorData};
use grades_kernels::quant::{GgufType, Nf4, PackedMatrix};

use super::{exclusive, random, read, relative_error, values};
use crate::host;
use crate::ops::{self, Ops, PackedOps, PackedWeights, Precision, Tensors, executed_flops};

/// One NF4 matrix and, where rows are whole blocks, one in Q8_0 and one in Q4_1.
fn weights(outs: &[usize], width: usize) -> PackedWeights {
    let pack = |(index, &out): (usize, &usize)| {
        let numbers = values(index as u64 + 3, out * width);
        let gguf = [GgufType::Q8_0, GgufType::Q4_1];
        Arc::new(match gguf.get(index.wrapping_sub(1)).filter(|kind| width.is_multiple_of(kind.block_size())) {
            Some(kind) => {
                let bytes = kind.bytes_of(out * width).unwrap();
                let bytes = (0..bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 0x3b);
                PackedMatrix::gguf(*kind, bytes.collect(), out, width).unwrap()
            }
            None => PackedMatrix::nf4(Nf4::encode(&numbers).unwrap(), out, width).unwrap(),
        })
    };
    PackedWeights(outs.iter().enumerate().map(pack).collect())
}

const SIZES: [(usize, usize, &[usize]); 5] =
    [(1, 7, &[5]), (3, 6, &[4, 2, 3]), (13, 64, &[17, 8, 8]), (70, 96, &[67, 50]), (9, 2_112, &[131])];

#[test]
fn overrides_equal_the_default_bodies() {
    for (tokens, width, outs) in SIZES {
        let packed = weights(outs, width);
        let dense = || packed.decoded::<Flex>(&Default::default());
        let total: usize = outs.iter().sum();
        for precision in [Precision::F32, Precision::Bf16] {
            let x = <Flex as Ops>::in_precision(random(1, tokens, width), precision);
            let dy = <Flex as Ops>::in_precision(random(2, tokens, total), precision);
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let biases = outs.iter().enumerate().map(|(i, &out)| random(20 + i as u64, 1, out));
                let biases = Tensors::<Flex>(if with_bias { biases.collect() } else { Vec::new() });
                let residual = Tensors::<Flex>(with_residual.then(|| random(30, tokens, total)).into_iter().collect());
                let found = Flex::project_packed(x.clone(), packed.clone(), biases.clone(), residual.clone(), None);
                let expected = Flex::project(x.clone(), dense(), biases, residual);
                same(precision, &format!("{outs:?}, bias {with_bias}"), read(found), read(expected));
            }
            let found = Flex::project_packed_input_gradient(dy.clone(), packed.clone());
            same(precision, "gradient", read(found), read(Flex::project_input_gradient(dy, dense())));
        }
    }
}

/// In bf16 the same numbers are packed, so every bit is the same; in f32 sums over blocks of rows differ in the last ones.
#[track_caller]
fn same(precision: Precision, what: &str, found: (Vec<usize>, Vec<f32>), expected: (Vec<usize>, Vec<f32>)) {
    assert_eq!(found.0, expected.0, "{what}: shape");
    match precision {
        Precision::Bf16 => assert_eq!(found.1, expected.1, "{what}"),
        Precision::F32 => assert!(relative_error(&found.1, &expected.1) < 1e-6, "{what}"),
    }
}

#[test]
fn gradients_and_arithmetic_are_those_of_the_decoded_weights() {
    let _counters = exclusive();
    let device = Device::default().autodiff();
    let leaf = |seed: u64, [rows, columns]: [usize; 2]| {
        let values = TensorData::new(values(seed, rows * columns), [rows, columns]);
        Tensor::<2>::from_data(values, &device).require_grad()
    };
    for (tokens, width, outs) in SIZES {
        let (packed, total) = (weights(outs, width), outs.iter().sum());
        let run = |packed: Option<&PackedWeights>| {
            let before = executed_flops();
            let x = leaf(1, [tokens, width]);
            let biases: Vec<_> = outs.iter().enumerate().map(|(i, &out)| leaf(20 + i as u64, [1, out])).collect();
            let residual = leaf(30, [tokens, total]);
            let y = match packed {
                Some(packed) => {
                    ops::project_packed(x.clone(), packed.clone(), biases.clone(), Some(residual.clone()), None)
                }
                None => {
                    let dense = weights(outs, width).0.into_iter().map(|weight| {
                        let mut values = vec![0.0; weight.rows() * width];
                        weight.decode(&mut values);
                        Tensor::from_data(TensorData::new(values, [weight.rows(), width]), &device)
                    });
                    ops::project(x.clone(), dense.collect(), biases.clone(), Some(residual.clone()))
                }
            };
            let mut found = (y.clone() * leaf(40, [tokens, total]).detach()).sum().backward();
            let mut numbers = host::read("y", &y, <[f32]>::to_vec).unwrap();
            for parent in [x, residual].iter().chain(&biases) {
                let gradient = parent.grad_remove(&mut found).unwrap();
                numbers.extend(host::read("gradient", &gradient, <[f32]>::to_vec).unwrap());
            }
            (numbers, executed_flops().since(&before))
        };
        let (found, expected) = (run(Some(&packed)), run(None));
        assert!(relative_error(&found.0, &expected.0) < 1e-6, "{outs:?}");
        assert_eq!(found.1, expected.1, "{outs:?}");
        assert!(found.1.input_gradient > 0 && found.1.weight_gradient == 0);
    }
}
