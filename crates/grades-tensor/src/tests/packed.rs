//! Projections through packed weights against the same projections through the decoded ones.

use grades_kernels::quant::{GgufType, Nf4, PackedMatrix};

use super::{ALL, exclusive, random, randoms, references, relative_error, values};
use crate::cpu::CPU;
use crate::device::{DeviceRef, Projections};
use crate::dtype::Dtype;
use crate::flops::executed;
use crate::ops;
use crate::tape::{Gradients, Leaf, Tape};
use crate::tensor::Tensor;

/// One NF4 matrix and, where rows are whole blocks, one in Q8_0 and one in Q4_1.
fn weights(device: DeviceRef, outs: &[usize], width: usize) -> Vec<Tensor> {
    let pack = |(index, &out): (usize, &usize)| {
        let numbers = values(index as u64 + 3, out * width);
        let gguf = [GgufType::Q8_0, GgufType::Q4_1];
        device.from_packed(
            match gguf.get(index.wrapping_sub(1)).filter(|kind| width.is_multiple_of(kind.block_size())) {
                Some(kind) => {
                    let bytes = kind.bytes_of(out * width).unwrap();
                    let bytes = (0..bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 0x3b);
                    PackedMatrix::gguf(*kind, bytes.collect(), out, width).unwrap()
                }
                None => PackedMatrix::nf4(Nf4::encode(&numbers).unwrap(), out, width).unwrap(),
            },
        )
    };
    outs.iter().enumerate().map(pack).collect()
}

fn decoded(weights: &[Tensor]) -> Vec<Tensor> {
    let dense: Vec<_> = weights.iter().map(|weight| weight.cast(Dtype::F32)).collect();
    assert!(
        dense.iter().zip(weights).all(|(dense, packed)| (dense.dtype(), packed.dtype()) == (Dtype::F32, Dtype::Packed))
    );
    dense
}

const SIZES: [(usize, usize, &[usize]); 6] =
    [(0, 6, &[2]), (1, 7, &[5]), (3, 6, &[4, 2, 3]), (13, 64, &[17, 8, 8]), (70, 96, &[67, 50]), (9, 2_112, &[131])];

#[test]
fn packed_weights_are_those_of_the_reference() {
    for (_, width, outs) in SIZES {
        let [found, expected] = ALL.map(|device| decoded(&weights(device, outs, width)));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.to_host(), expected.to_host());
        }
    }
}

#[test]
fn products_are_those_of_the_decoded_weights() {
    for (tokens, width, outs) in SIZES {
        let packed = weights(&CPU, outs, width);
        let (dense, total) = (decoded(&packed), outs.iter().sum());
        let (packed, dense) = (references(&packed), references(&dense));
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let [x, dy] =
                [(1, width), (2, total)].map(|(seed, columns)| random(&CPU, seed, [tokens, columns]).cast(dtype));
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let biases = randoms(&CPU, 20, outs.iter().filter(|_| with_bias).map(|&out| [1, out]));
                let residual = || with_residual.then(|| random(&CPU, 30, [tokens, total]));
                let found = CPU.project(&x, &packed, &references(&biases), residual());
                let expected = CPU.project(&x, &dense, &references(&biases), residual());
                same(dtype, &format!("{outs:?}, bias {with_bias}"), &found, &expected);
            }
            for with_onto in [false, true] {
                let onto = || with_onto.then(|| random(&CPU, 31, [tokens, width]).cast(dtype));
                let found = CPU.project_input_gradient(&dy, &packed, onto());
                same(dtype, "gradient", &found, &CPU.project_input_gradient(&dy, &dense, onto()));
            }
        }
    }
}

/// In bf16 the same numbers are packed, so every bit is the same; in f32 sums over blocks of rows differ in the last ones.
#[track_caller]
fn same(dtype: Dtype, what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!((found.shape(), found.dtype()), (expected.shape(), expected.dtype()), "{what}");
    match dtype {
        Dtype::Bf16 => assert_eq!(found.to_host(), expected.to_host(), "{what}"),
        Dtype::F32 | Dtype::U8 | Dtype::Packed => {
            assert!(relative_error(&found.to_host(), &expected.to_host()) < 1e-6, "{what}");
        }
    }
}

#[test]
fn gradients_and_arithmetic_are_those_of_the_decoded_weights() {
    let _counters = exclusive();
    for device in ALL {
        for (tokens, width, outs) in SIZES.into_iter().filter(|(tokens, ..)| *tokens > 0) {
            let (packed, total) = (weights(device, outs, width), outs.iter().sum());
            let dense = decoded(&packed);
            let run = |weights: &[Tensor], wanted: usize| {
                let before = executed();
                let tape = Tape::recording();
                let inputs = [(1, width), (30, total)].map(|(seed, n)| tape.input(random(device, seed, [tokens, n])));
                let weights: Vec<_> = weights.iter().map(|weight| Leaf::constant(weight.clone())).collect();
                let biases = randoms(device, 20, outs.iter().map(|&out| [1, out])).into_iter().enumerate();
                let biases: Vec<_> = biases.map(|(slot, bias)| Leaf::tracked(bias, slot)).collect();
                let y = ops::project(&tape, &inputs[0], &weights, &biases, Some(&inputs[1]));
                let (mut numbers, mut gradients) = (y.value.to_host().into_owned(), Gradients::new(outs.len()));
                let dy = random(device, 40, [tokens, total]);
                let gradient = tape.backward(Some((&y, dy)), Some(&inputs[wanted]), &mut gradients).unwrap();
                numbers.extend_from_slice(&gradient.to_host());
                assert_eq!(gradients.iter().count(), outs.len());
                gradients.iter().for_each(|(_, gradient)| numbers.extend_from_slice(&gradient.to_host()));
                (numbers, executed().since(&before))
            };
            for wanted in [0, 1] {
                let (found, expected) = (run(&packed, wanted), run(&dense, wanted));
                assert!(relative_error(&found.0, &expected.0) < 1e-6, "{outs:?}");
                assert_eq!(found.1, expected.1, "{outs:?}");
                assert!(found.1.input_gradient > 0 && found.1.weight_gradient == 0);
            }
        }
    }
}
