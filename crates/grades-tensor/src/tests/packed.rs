//! Packed weights, and those in bf16, against the same through the decoded ones.

use std::sync::Arc;

use grades_kernels::quant::{GgufType, Nf4, PackedMatrix};

use super::{ALL, exclusive, random, randoms, references, relative_error, values};
use crate::cpu::CPU;
use crate::device::{Adapters, DeviceRef, Losses, Memory, Projections};
use crate::dtype::Dtype;
use crate::flops::executed;
use crate::ops;
use crate::spec::{Activation, CrossEntropySpec, LossScale, labels_of};
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

/// The numbers of random weights in bf16, and the same numbers in f32.
fn halves(device: DeviceRef, outs: &[usize], width: usize) -> [Vec<Tensor>; 2] {
    let half = |(seed, &out): (u64, &usize)| {
        let numbers = values(seed, out * width);
        device.from_bf16(numbers.into_iter().map(half::bf16::from_f32).collect(), [out, width])
    };
    let half: Vec<Tensor> = (50..).zip(outs).map(half).collect();
    let whole = half.iter().map(|weight| weight.cast(Dtype::F32)).collect();
    assert!(half.iter().zip(outs).all(|(half, out)| half.dtype() == Dtype::Bf16 && half.rows() == *out));
    [half, whole]
}

/// Whatever reads a weight that does not train: to the bit what it gives for the same numbers in f32.
#[test]
fn weights_in_bf16_are_their_values() {
    for (tokens, width, outs) in SIZES {
        let [half, whole] = halves(&CPU, outs, width);
        assert_eq!(half[0].bytes() * 2, whole[0].bytes());
        let total = outs.iter().sum();
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let [x, dy] =
                [(1, width), (2, total)].map(|(seed, columns)| random(&CPU, seed, [tokens, columns]).cast(dtype));
            let bias = random(&CPU, 20, [1, total]);
            let ids: Vec<u32> = (0..tokens as u32).map(|row| row * 7 % outs[0] as u32).collect();
            let targets: Arc<Vec<i64>> = Arc::new(ids.iter().map(|&id| i64::from(id)).collect());
            let spec = CrossEntropySpec { targets: targets.clone(), scale: LossScale::Same(0.3) };
            let labels = labels_of(&targets);
            let [a, b] = [[2, width], [outs[0], 2]].map(|shape| random(&CPU, 40, shape));
            let all = |weights: &[Tensor]| {
                let (head, together) = (&weights[0], references(weights));
                let residual = Some(random(&CPU, 30, [tokens, total]));
                let (loss, dhidden, _) = CPU.cross_entropy(&x, head, &spec, true, false);
                let (gated, joined) = CPU.gated_project(&x, [head, head], Activation::Silu, true);
                let squares = CPU.row_squares(head);
                vec![
                    CPU.project(&x, &together, &[&bias], residual),
                    CPU.project(&x, &together, &[], None),
                    CPU.project_input_gradient(&dy, &together, None),
                    CPU.project_input_gradient(&dy, &together, Some(x.clone())),
                    CPU.gather_rows(head, &ids).cast(Dtype::F32),
                    CPU.log_likelihoods(&x, head, &labels),
                    loss,
                    dhidden.unwrap(),
                    gated,
                    joined.unwrap(),
                    CPU.adapted_row_norms(head, &squares, &a, &b, 0.7),
                    squares,
                ]
            };
            for (index, (found, expected)) in all(&half).iter().zip(all(&whole)).enumerate() {
                assert_eq!((found.shape(), found.dtype()), (expected.shape(), expected.dtype()), "{index}");
                let (found, expected) = (found.to_host(), expected.to_host());
                assert!(found == expected, "{index} of {tokens}·{width}→{outs:?} in {}", dtype.name());
            }
        }
    }
}

/// The head, and rows of the embedding, in blocks.
#[test]
fn a_packed_head_is_that_of_the_decoded_one() {
    for (tokens, width, outs) in SIZES {
        for packed in weights(&CPU, outs, width) {
            let whole = packed.cast(Dtype::F32);
            let ids: Vec<u32> = (0..tokens as u32).map(|row| row * 7 % packed.rows() as u32).collect();
            assert_eq!(CPU.gather_rows(&packed, &ids).to_host(), CPU.gather_rows(&whole, &ids).to_host());
            let targets: Arc<Vec<i64>> = Arc::new(ids.iter().map(|&id| i64::from(id)).collect());
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let hidden = random(&CPU, 1, [tokens, width]).cast(dtype);
                let spec = CrossEntropySpec { targets: targets.clone(), scale: LossScale::Same(0.3) };
                let of = |weight: &Tensor| {
                    let (loss, dhidden, _) = CPU.cross_entropy(&hidden, weight, &spec, true, false);
                    [loss, dhidden.unwrap(), CPU.log_likelihoods(&hidden, weight, &labels_of(&targets))]
                };
                for (found, expected) in of(&packed).iter().zip(&of(&whole)) {
                    same(dtype, "head", found, expected);
                }
            }
        }
    }
}
