//! All products on the emulated instructions: packing, blocks and edges are those of the processor.

use half::bf16;

use super::Tiles;
use super::emulator::Emulator;
use crate::activations::Activation;
use crate::dispatch::has_bf16;
use crate::gemm::bf16::product::{self, Operand};
use crate::gemm::bf16::tile::{COLUMNS, Left, Target};
use crate::gemm::bf16::unit::{Avx512, Unit};
use crate::gemm::bf16::{Rows, gated, reference, weight_gradient};
use crate::gemm::rows::{Stack, testing::Scaled};
use crate::gemm::{Matrix, MatrixMut};
use crate::testing::{assert_close, numbers, on_any_threads, rounded, widened};

type Emulated = Tiles<Emulator>;

/// None, single ones, odd ones, whole tiles, whole panels, and two blocks of the inner dimension.
const SIZES: [(usize, &[usize], usize); 13] = [
    (0, &[5], 3),
    (4, &[3], 0),
    (1, &[1], 1),
    (1, &[130], 70),
    (13, &[1], 71),
    (17, &[9, 2], 2),
    (32, &[48], 32),
    (33, &[17, 40, 3], 65),
    (64, &[96, 16], 64),
    (71, &[129], 257),
    (9, &[50], 650),
    (150, &[97, 33], 130),
    (5, &[33], 3_090),
];

/// Everything that a product writes, on any number of threads; rows of the result have a gap, which must stay.
fn products<const BF16: bool>(a: Matrix<bf16>, b: Operand, bias: &[f32], [m, n]: [usize; 2]) -> Vec<Vec<f32>> {
    const GAP: usize = 3;
    let before = numbers(9, m * (n + GAP));
    on_any_threads(|| {
        let (mut sums, mut short) = (before.clone(), rounded(&before));
        // SAFETY: the targets have `m` rows of `n`; the emulation needs no AMX.
        unsafe {
            for add in [false, true] {
                let mut c = MatrixMut::with_stride(&mut sums, m, n, n + GAP);
                let mut c16 = MatrixMut::with_stride(&mut short, m, n, n + GAP);
                let pointer = c.as_mut_ptr();
                let add_to = if add { pointer.cast_const() } else { std::ptr::null() };
                let target = match BF16 {
                    false => Target::F32 { c: pointer, row_stride: n + GAP, add: add_to },
                    true => Target::Bf16 { c: c16.as_mut_ptr(), row_stride: n + GAP, accumulate: add },
                };
                product::product_by::<Emulated>(a, b, bias, target);
            }
        }
        let values: Vec<f32> = if BF16 { widened(&short) } else { sums.clone() };
        let original: Vec<f32> = if BF16 { widened(&rounded(&before)) } else { before.clone() };
        for (values, original) in values.chunks(n + GAP).zip(original.chunks(n + GAP)) {
            assert_eq!(values[n..], original[n..], "written between the rows");
        }
        vec![values.chunks(n + GAP).flat_map(|row| &row[..n]).copied().collect()]
    })
}

#[test]
fn products_with_weights_equal_the_reference_at_any_size() {
    if !has_bf16() {
        return;
    }
    for (m, parts, k) in SIZES {
        let n: usize = parts.iter().sum();
        let values = numbers(2, n * k);
        let mut rest = &values[..];
        let weights: Vec<Scaled> =
            parts.iter().map(|&rows| Scaled(2.0, Matrix::new(rest.split_off(..rows * k).unwrap(), rows, k))).collect();
        let weights: Vec<&dyn Rows> = weights.iter().map(|w| w as &dyn Rows).collect();
        let stack = Stack::new(&weights);
        let dense: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
        let dense = Matrix::new(&dense, n, k);
        let bias = numbers(4, n);
        // A part of wider rows, from an odd element on; what lies behind each row is not a number.
        let with_ends = |seed, width: usize| -> Vec<bf16> {
            let inner = rounded(&numbers(seed, m * width));
            let mut all = vec![bf16::NAN; m * (width + 5) + 1];
            for (i, x) in inner.into_iter().enumerate() {
                all[1 + i / width * (width + 5) + i % width] = x;
            }
            all
        };
        let (x, dy) = (with_ends(1, k), with_ends(3, n));
        let forward = Matrix::with_stride(&x[1..], m, k, k + 5);
        let backward = Matrix::with_stride(&dy[1..], m, n, n + 5);
        let mut expected = reference::product(forward, n, |p, j| dense.at(j, p));
        expected.iter_mut().enumerate().for_each(|(e, sum)| *sum += f64::from(bias[e % n.max(1)]));
        let cases = [
            (forward, Operand::Transposed(&stack), &bias[..], n, expected),
            (backward, Operand::Plain(&stack), &[][..], k, reference::product(backward, k, |p, j| dense.at(p, j))),
        ];
        for (a, b, bias, n, expected) in cases {
            // The product twice: once in place of what was there, once added.
            let twice: Vec<f64> = expected.iter().map(|e| 2.0 * e).collect();
            let tolerance = 3e-6 * (a.columns() as f64).max(4.0).sqrt();
            let what = format!("{m}×{parts:?}×{k}, of {n} columns");
            assert_close(&products::<false>(a, b, bias, [m, n])[0], &twice, tolerance, &what);
            assert_close(&products::<true>(a, b, bias, [m, n])[0], &twice, 2.0_f64.powi(-7) + tolerance, &what);
        }
    }
}

/// A unit is used again with what the last product left.
#[test]
fn a_product_does_not_see_the_one_before() {
    if !has_bf16() {
        return;
    }
    // SAFETY: the emulation needs no AMX; the operands hold what the sizes say.
    unsafe {
        let mut unit = Emulated::new();
        let mut panel = crate::gemm::Buffer::<u32>::new(16 * COLUMNS);
        panel.as_mut_ptr().write_bytes(0, 16 * COLUMNS);
        panel.as_mut_ptr().write(u32::from(bf16::ONE.to_bits()));
        let mut product = |a: &[bf16], rows: usize| {
            let mut c = vec![f32::NAN; rows];
            let a = Left { start: a.as_ptr(), row_stride: a.len() / rows, pair_stride: 2 };
            let target = Target::F32 { c: c.as_mut_ptr(), row_stride: 1, add: std::ptr::null() };
            unit.tile((rows, 1), a.row_stride / 2, a, panel.as_ptr(), std::ptr::null(), target);
            c
        };
        assert!(product(&[bf16::NAN; 20 * 10], 20).iter().all(|sum| sum.is_nan()));
        assert_eq!(product(&[bf16::ONE; 2 * 4], 2), [1.0; 2]);
        assert_eq!(product(&[bf16::ONE; 20 * 2], 20), [1.0; 20]);
    }
}

#[test]
fn weight_gradients_equal_the_reference_at_any_size() {
    if !has_bf16() {
        return;
    }
    for (tokens, rows, k) in
        [(0, 3, 4), (1, 1, 1), (5, 7, 3), (16, 48, 48), (32, 64, 16), (33, 75, 65), (70, 100, 97), (1_030, 33, 20)]
    {
        let (dy, x) = (rounded(&numbers(1, tokens * (rows + 3))), rounded(&numbers(2, tokens * (k + 2))));
        let (a, b) = (Matrix::new(&dy, tokens, rows + 3), Matrix::with_stride(&x, tokens, k, k + 2));
        let results = on_any_threads(|| {
            let mut c = vec![0.5; rows * k];
            let start = c.as_mut_ptr();
            let target = Target::F32 { c: start, row_stride: k, add: start.cast_const() };
            let piece = weight_gradient::Piece { first: 2, rows, target };
            // SAFETY: the target has `rows` rows of `k`; the emulation needs no AMX.
            unsafe { weight_gradient::product_by::<Emulated>(a, b, vec![piece]) };
            vec![c]
        });
        let element = |i: usize, j: usize| -> f64 {
            let product = |t: usize| f64::from(a.at(t, 2 + i).to_f32()) * f64::from(b.at(t, j).to_f32());
            0.5 + (0..tokens).map(product).sum::<f64>()
        };
        let expected: Vec<f64> = (0..rows * k).map(|e| element(e / k, e % k)).collect();
        let tolerance = 3e-6 * (tokens as f64).max(4.0).sqrt();
        assert_close(&results[0], &expected, tolerance, &format!("{tokens} tokens, {rows}×{k}"));
    }
}

#[test]
fn a_gated_product_is_that_of_the_other_unit() {
    if !has_bf16() {
        return;
    }
    for (m, n, k) in [(1, 1, 2), (9, 50, 34), (45, 97, 66), (70, 130, 64)] {
        // Whole numbers, of which all orders of summing give the same.
        let whole = |seed, len| -> Vec<f32> { numbers(seed, len).iter().map(|x| (4.0 * x).round()).collect() };
        let x = rounded(&whole(1, m * k));
        let (gate, up) = (whole(2, n * k), whole(3, n * k));
        let (x, gate, up) = (Matrix::new(&x, m, k), Matrix::new(&gate, n, k), Matrix::new(&up, n, k));
        for keep in [false, true] {
            // SAFETY: the processor has AVX512-BF16, the emulation needs no AMX, and `k` is even and small.
            let [emulated, native] = unsafe {
                [
                    gated::gated_by::<Emulated>(x, [&gate, &up], Activation::Silu, keep),
                    gated::gated_by::<Avx512>(x, [&gate, &up], Activation::Silu, keep),
                ]
            };
            assert_eq!(emulated, native, "{m}×{n}×{k}");
        }
    }
}
