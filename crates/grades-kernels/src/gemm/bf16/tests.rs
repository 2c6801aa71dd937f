use half::bf16;

use super::{Output, Part, Rows, gated_new, nn, nn_new, nt, nt_new, nt_onto, portable, reference, tn, tn_new};
use crate::activations::{Activation, gated_joined_new};
use crate::gemm::rows::{Stack, testing::Scaled};
use crate::gemm::{Matrix, MatrixMut};
use crate::testing::{assert_close, numbers, on_any_threads, rounded, widened};

/// Sizes m, n (of one or several weights) and k: none, single ones, odd ones, and such as fill tiles, panels and blocks
/// of the inner dimension and leave a rest.
const SIZES: [(usize, &[usize], usize); 13] = [
    (0, &[5], 3),
    (5, &[0], 3),
    (4, &[3], 0),
    (1, &[1], 1),
    (1, &[130], 70),
    (13, &[1], 71),
    (7, &[9, 2], 2),
    (8, &[48], 32),
    (33, &[17, 40, 3], 65),
    (64, &[96, 16], 64),
    (71, &[129], 257),
    (9, &[50], 2_050),
    (150, &[97, 33], 130),
];

/// All outputs of one product: f32 in place, added, and bf16. `run` takes a portable product where its flag is set.
fn compare(expected: &[f64], [m, n]: [usize; 2], what: &str, inner: usize, run: impl Fn(bool, Output) + Sync) {
    let gap = 3;
    let before = numbers(9, m * (n + gap));
    let within = |c: &[f32]| -> Vec<f32> { c.chunks(n + gap).flat_map(|row| &row[..n]).copied().collect() };
    let between = |c: &[f32]| -> Vec<u32> {
        c.chunks(n + gap).flat_map(|row| &row[n.min(row.len())..]).map(|x| x.to_bits()).collect()
    };
    for portable in [false, true] {
        let results = on_any_threads(|| {
            let (mut c, mut added, mut short) = (before.clone(), before.clone(), rounded(&before));
            run(portable, Output::F32(MatrixMut::with_stride(&mut c, m, n, n + gap)));
            run(portable, Output::AddF32(MatrixMut::with_stride(&mut added, m, n, n + gap)));
            run(portable, Output::Bf16(MatrixMut::with_stride(&mut short, m, n, n + gap)));
            let mut short_added = rounded(&before);
            run(portable, Output::AddBf16(MatrixMut::with_stride(&mut short_added, m, n, n + gap)));
            vec![c, added, widened(&short), widened(&short_added)]
        });
        let what = format!("{what}, portable {portable}");
        let tolerance = 3e-6 * (inner as f64).max(4.0).sqrt();
        assert_close(&within(&results[0]), expected, tolerance, &what);
        let sums: Vec<f64> = within(&before).iter().zip(expected).map(|(b, e)| f64::from(*b) + e).collect();
        assert_close(&within(&results[1]), &sums, tolerance, &what);
        // Half of the distance of two bf16 numbers, of which the significand has eight bits.
        assert_close(&within(&results[2]), expected, 2.0_f64.powi(-8) + tolerance, &what);
        let short_before = widened(&rounded(&before));
        let sums: Vec<f64> = within(&short_before).iter().zip(expected).map(|(b, e)| f64::from(*b) + e).collect();
        assert_close(&within(&results[3]), &sums, 2.0_f64.powi(-8) + tolerance, &what);
        let originals = [before.clone(), before.clone(), short_before.clone(), short_before];
        for (result, original) in results.iter().zip(originals) {
            assert_eq!(between(result), between(&original), "{what} wrote between the rows");
        }
    }
}

#[test]
fn products_with_weights_equal_the_reference_at_any_size() {
    for (m, parts, k) in SIZES {
        let n: usize = parts.iter().sum();
        let values = numbers(2, n * k);
        let mut rest = &values[..];
        let weights: Vec<Scaled> =
            parts.iter().map(|&rows| Scaled(2.0, Matrix::new(rest.split_off(..rows * k).unwrap(), rows, k))).collect();
        let dense: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
        let dense = Matrix::new(&dense, n, k);
        let stacks: [Vec<&dyn Rows>; 2] = [weights.iter().map(|w| w as &dyn Rows).collect(), vec![&dense]];
        let bias = numbers(4, n);
        for weights in &stacks {
            let what = format!("{m}×{parts:?}×{k}");
            // A part of wider rows, from an odd element on.
            let x = rounded(&numbers(1, m * (k + 5) + 1));
            let a = Matrix::with_stride(&x[1..], m, k, k + 5);
            for bias in [&[][..], &bias] {
                let mut expected = reference::product(a, n, |p, j| dense.at(j, p));
                for (j, e) in expected.iter_mut().enumerate() {
                    *e += f64::from(*bias.get(j % n.max(1)).unwrap_or(&0.0));
                }
                compare(&expected, [m, n], &format!("nt {what}"), k, |portably, c| match portably {
                    true => portable::nt(a, &Stack::new(weights), bias, c),
                    false => nt(a, weights, bias, c),
                });
            }
            let dy = rounded(&numbers(3, m * (n + 5) + 1));
            let a = Matrix::with_stride(&dy[1..], m, n, n + 5);
            let expected = reference::product(a, k, |p, j| dense.at(p, j));
            compare(&expected, [m, k], &format!("nn {what}"), n, |portably, c| match portably {
                true => portable::nn(a, &Stack::new(weights), c),
                false => nn(a, weights, c),
            });
        }
    }
}

#[test]
fn long_sums_equal_the_reference_in_every_output() {
    // Several blocks of the inner dimension: of the weight's rows in nn, of its columns in nt, of the batch in tn.
    let (m, n, k) = (9, 5_001, 21);
    let (x, w, bias) = (rounded(&numbers(1, m * n)), numbers(2, n * k), numbers(3, k));
    let (a, weight) = (Matrix::new(&x, m, n), Matrix::new(&w, n, k));
    let expected = reference::product(a, k, |p, j| weight.at(p, j));
    compare(&expected, [m, k], "long nn", n, |_, c| nn(a, &[&weight], c));
    let weight = Matrix::new(&w, k, n);
    let mut expected = reference::product(a, k, |p, j| weight.at(j, p));
    expected.iter_mut().enumerate().for_each(|(j, e)| *e += f64::from(bias[j % k]));
    compare(&expected, [m, k], "long nt", n, |_, c| nt(a, &[&weight], &bias, c));
    weight_gradients(2_055, &[7, 20], 50);
}

/// Gradients of several weights, of which the second is added to and one in between is left out.
fn weight_gradients(tokens: usize, parts: &[usize], k: usize) {
    let width = parts.iter().sum::<usize>() + 3;
    let (dy, x) = (rounded(&numbers(1, tokens * width)), rounded(&numbers(2, tokens * (k + 2))));
    let (a, b) = (Matrix::new(&dy, tokens, width), Matrix::with_stride(&x, tokens, k, k + 2));
    for portably in [false, true] {
        let results = on_any_threads(|| {
            let mut all: Vec<Vec<f32>> = parts.iter().map(|rows| vec![0.5; rows * k]).collect();
            let mut first = 0;
            let mut list = Vec::new();
            for (index, (rows, c)) in parts.iter().zip(&mut all).enumerate() {
                list.push(Part { first, c: MatrixMut::new(c, *rows, k), accumulate: index == 1 });
                first += rows + if index == 0 { 3 } else { 0 };
            }
            if portably {
                portable::tn(a, b, list)
            } else {
                tn(a, b, list)
            }
            all
        });
        let mut first = 0;
        for (index, (rows, c)) in parts.iter().zip(&results).enumerate() {
            let element = |i: usize, j: usize| -> f64 {
                let sum: f64 =
                    (0..tokens).map(|t| f64::from(a.at(t, first + i).to_f32()) * f64::from(b.at(t, j).to_f32())).sum();
                sum + if index == 1 { 0.5 } else { 0.0 }
            };
            let expected: Vec<f64> = (0..rows * k).map(|e| element(e / k, e % k)).collect();
            let tolerance = 3e-6 * (tokens as f64).max(4.0).sqrt();
            assert_close(c, &expected, tolerance, &format!("tn {tokens} tokens, part {index} of {parts:?}, k {k}"));
            first += rows + if index == 0 { 3 } else { 0 };
        }
    }
}

#[test]
fn weight_gradients_equal_the_reference_at_any_size() {
    for (tokens, parts, k) in
        [(0, &[3][..], 4), (1, &[1], 1), (5, &[0, 7], 3), (16, &[48], 48), (33, &[17, 8, 50], 65), (70, &[100], 97)]
    {
        weight_gradients(tokens, parts, k);
    }
}

#[test]
#[should_panic(expected = "inner dimensions")]
fn products_of_unequal_inner_dimensions_are_refused() {
    let (a, w, mut c) = ([bf16::ONE; 6], [0.0; 4], [0.0; 4]);
    nn(Matrix::new(&a, 2, 3), &[&Matrix::new(&w, 2, 2)], Output::F32(MatrixMut::new(&mut c, 2, 2)));
}

#[test]
fn a_gated_product_is_the_product_and_its_activation() {
    for (m, n, k) in [(0, 5, 4), (3, 0, 4), (1, 1, 2), (9, 50, 7), (13, 97, 66), (70, 130, 64), (8, 48, 3_074)] {
        let x = rounded(&numbers(1, m * k));
        let (gate, up) = (numbers(2, n * k), numbers(3, n * k));
        let (x, gate, up) = (Matrix::new(&x, m, k), Matrix::new(&gate, n, k), Matrix::new(&up, n, k));
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let joined = nt_new(x, &[&gate, &up], &[]);
            let expected = gated_joined_new(activation, &joined, n);
            let results = on_any_threads(|| {
                let (y, kept) = gated_new(x, [&gate, &up], activation, true);
                assert_eq!(gated_new(x, [&gate, &up], activation, false), (y.clone(), Vec::new()));
                vec![widened(&y), widened(&kept)]
            });
            assert_eq!(results, [widened(&expected), widened(&joined)], "{m}×{n}×{k}");
        }
    }
}

#[test]
fn products_into_new_memory_are_the_same() {
    for (m, weights, k) in SIZES {
        let n: usize = weights.iter().sum();
        let (x, dy) = (rounded(&numbers(1, m * k)), rounded(&numbers(2, m * n)));
        let values: Vec<Vec<f32>> = weights.iter().map(|&n| numbers(3, n * k)).collect();
        let matrices: Vec<Matrix> = values.iter().zip(weights).map(|(v, &n)| Matrix::new(v, n, k)).collect();
        let rows: Vec<&dyn Rows> = matrices.iter().map(|m| m as &dyn Rows).collect();
        let bias = numbers(4, n);
        let (x, dy) = (Matrix::new(&x, m, k), Matrix::new(&dy, m, n));
        let mut y = vec![bf16::NAN; m * n];
        nt(x, &rows, &bias, Output::Bf16(MatrixMut::new(&mut y, m, n)));
        assert_eq!(nt_new(x, &rows, &bias), y);
        let residual = numbers(5, m * n);
        let mut sum = residual.clone();
        nt(x, &rows, &bias, Output::AddF32(MatrixMut::new(&mut sum, m, n)));
        assert_eq!(nt_onto(x, &rows, &bias, &residual), sum);
        let mut dx = vec![bf16::NAN; m * k];
        nn(dy, &rows, Output::Bf16(MatrixMut::new(&mut dx, m, k)));
        assert_eq!(nn_new(dy, &rows), dx);
        let (first, count) = (n / 3, n - n / 3);
        let mut dw = vec![f32::NAN; count * k];
        tn(dy, x, vec![Part { first, c: MatrixMut::new(&mut dw, count, k), accumulate: false }]);
        let two = first + count / 2;
        let parts = tn_new(dy, x, &[first..two, two..first + count, 0..0]);
        assert_eq!(parts.concat(), dw);
    }
}
