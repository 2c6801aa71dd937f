use half::bf16;

use super::few_rows::{MAX_ROWS, few_rows_by};
use super::kernel::Kernel;
use super::product::{Left, Right, product_by};
use super::tile::Target;
use super::weight_gradient::{Piece, transposed_product_by};
use crate::gemm::matrix::{Matrix, MatrixMut};
use crate::gemm::rows::{Rows, testing::Scaled};
use crate::testing::numbers;
use crate::threads::Pool;

/// Sizes m, n and k: none, single ones, odd ones, such as fill tiles and panels of some kernel and leave a rest, and several blocks
/// of the inner dimension.
const SIZES: [(usize, usize, usize); 23] = [
    (0, 5, 3),
    (5, 0, 3),
    (4, 3, 0),
    (1, 1, 1),
    (1, 130, 70),
    (130, 1, 70),
    (7, 9, 1),
    (7, 9, 2),
    (8, 48, 16),
    (6, 96, 33),
    (8, 8, 129),
    (33, 17, 65),
    (64, 64, 64),
    (65, 129, 257),
    (13, 47, 49),
    (300, 97, 130),
    (97, 1030, 33),
    (2, 5, 1_537),
    (9, 50, 3_100),
    (6, 49, 2_050),
    (20, 300, 1_025),
    (193, 50, 31),
    // Rows 1,024 numbers apart, with the gap.
    (19, 51, 1_024 - GAP),
];

/// The operands of a product, in every layout, their rows further apart than they are long.
struct Operands {
    /// `[m, k]`, `[k, m]`, `[n, k]`, `[k, n]`.
    values: [Vec<f32>; 4],
    size: (usize, usize, usize),
}

const GAP: usize = 3;

impl Operands {
    fn new(size @ (m, n, k): (usize, usize, usize)) -> Self {
        let transposed = |x: &[f32], rows: usize, columns: usize| {
            let mut t = numbers(9, columns * (rows + GAP));
            for i in 0..rows {
                for j in 0..columns {
                    t[j * (rows + GAP) + i] = x[i * (columns + GAP) + j];
                }
            }
            t
        };
        // Such as bf16 holds exactly.
        let short =
            |seed, count| -> Vec<f32> { numbers(seed, count).iter().map(|&x| bf16::from_f32(x).to_f32()).collect() };
        let (a, b) = (short(1, m * (k + GAP)), short(2, n * (k + GAP)));
        let (at, bt) = (transposed(&a, m, k), transposed(&b, n, k));
        Self { values: [a, at, b, bt], size }
    }

    fn matrices(&self) -> [Matrix<'_>; 4] {
        let (m, n, k) = self.size;
        let [a, at, b, bt] = &self.values;
        [(a, m, k), (at, k, m), (b, n, k), (bt, k, n)]
            .map(|(x, rows, columns)| Matrix::with_stride(x, rows, columns, columns + GAP))
    }

    /// The product, and for each element Σ |aᵢ · bᵢ| in f64.
    fn reference(&self) -> Vec<(f64, f64)> {
        let (m, n, k) = self.size;
        let [a, _, b, _] = self.matrices();
        let terms = |i: usize, j: usize| (0..k).map(move |p| f64::from(a.at(i, p)) * f64::from(b.at(j, p)));
        let element = |i, j| terms(i, j).fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
    }
}

/// Runs `product` into a matrix of `[m, n]` within a wider one, on 1, 2 and 3 threads, in place of what is there and added to it, and
/// compares each element with the reference: within `k · ε` of Σ |aᵢ · bᵢ|, the bound of a sum in any order.
fn check(operands: &Operands, expected: &[(f64, f64)], what: &str, product: &(dyn Fn(Target) + Sync)) {
    let (m, n, k) = operands.size;
    for accumulate in [false, true] {
        let before = if accumulate { numbers(3, m * (n + GAP)) } else { vec![f32::NAN; m * (n + GAP)] };
        let results = [1, 2, 3].map(|threads| {
            let mut c = before.clone();
            Pool::new(threads).install(|| {
                product(Target { c: c.as_mut_ptr(), row_stride: n + GAP, accumulate });
            });
            c
        });
        let bits = |c: &[f32]| -> Vec<u32> { c.iter().map(|x| x.to_bits()).collect() };
        let what = format!("{what}, {m}×{n}×{k}, accumulate {accumulate}");
        assert!(results.iter().all(|c| bits(c) == bits(&results[0])), "{what}: threads make a difference");
        for (e, (c, b)) in results[0].iter().zip(&before).enumerate() {
            let (i, j) = (e / (n + GAP), e % (n + GAP));
            if j >= n {
                assert_eq!(c.to_bits(), b.to_bits(), "{what}: wrote between the rows");
                continue;
            }
            let (product, size) = expected[i * n + j];
            let before = if accumulate { f64::from(*b) } else { 0.0 };
            let (sum, size) = (product + before, size + before.abs());
            let bound = (k + 4) as f64 * f64::from(f32::EPSILON) / 2.0 * size;
            assert!((f64::from(*c) - sum).abs() <= bound, "{what}: ({i}, {j}) is {c}, not {sum} within {bound:e}");
        }
    }
}

#[test]
fn every_kernel_equals_the_reference_in_every_layout_at_any_size() {
    for size in SIZES {
        let operands = Operands::new(size);
        let (expected, [a, at, b, bt]) = (operands.reference(), operands.matrices());
        let doubled = |m: Matrix| -> Vec<f32> { (0..m.rows()).flat_map(|i| m.row(i)).map(|x| 2.0 * x).collect() };
        let twice = [at, b, bt].map(doubled);
        let [at_decoded, b_decoded, bt_decoded] = [(at, &twice[0]), (b, &twice[1]), (bt, &twice[2])]
            .map(|(m, x)| Scaled(0.5, Matrix::new(x, m.rows(), m.columns())));
        let a_values: Vec<bf16> = operands.values[0].iter().map(|&x| bf16::from_f32(x)).collect();
        let a_short = Matrix::with_stride(&a_values, a.rows(), a.columns(), a.columns() + GAP);
        for (index, kernel) in Kernel::all().into_iter().enumerate() {
            for (kind, left) in [("f32", Left::F32(a)), ("bf16", Left::Bf16(a_short))] {
                for (transposed, matrix) in
                    [(true, &b as &dyn Rows), (true, &b_decoded), (false, &bt), (false, &bt_decoded)]
                {
                    let what = format!("kernel {index}, {kind}, transposed {transposed}");
                    let right = Right { matrix, transposed, rounded: false };
                    // SAFETY: the shapes fit; the target takes `[m, n]` and is read and written here only.
                    check(&operands, &expected, &what, &|c| unsafe { product_by(kernel, left, right, c) });
                }
            }
            for (a, b) in [(&at as &dyn Rows, &bt as &dyn Rows), (&at_decoded, &bt_decoded)] {
                check(&operands, &expected, &format!("kernel {index}, tn"), &|target| {
                    let half = size.0 / 2;
                    // SAFETY: as above; the second piece begins where the first ends.
                    unsafe {
                        let rest = Piece { first: half, rows: size.0 - half, target: target.at(half, 0) };
                        transposed_product_by(kernel, a, b, &[Piece { first: 0, rows: half, target }, rest]);
                    }
                });
            }
            if size.0 <= MAX_ROWS {
                for b in [&b as &dyn Rows, &b_decoded] {
                    check(
                        &operands,
                        &expected,
                        &format!("kernel {index}, few rows"),
                        &|Target { c, row_stride, accumulate }| {
                            let len = size.0 * row_stride;
                            // SAFETY: the target has as many elements, which only this call reads and writes.
                            let c = unsafe { std::slice::from_raw_parts_mut(c, len) };
                            few_rows_by(
                                kernel,
                                a,
                                b,
                                MatrixMut::with_stride(c, size.0, size.1, row_stride),
                                accumulate,
                            );
                        },
                    );
                }
            }
        }
    }
}

#[test]
fn a_number_of_the_weight_is_rounded_where_that_is_asked_for() {
    let (a, b) = (vec![1.0; 20], numbers(1, 20 * 7));
    for kernel in Kernel::all() {
        for transposed in [false, true] {
            let mut c = [0.0; 7];
            let matrix = if transposed { Matrix::new(&b, 7, 20) } else { Matrix::new(&b, 20, 7) };
            let right = Right { matrix: &matrix, transposed, rounded: true };
            let target = Target { c: c.as_mut_ptr(), row_stride: 7, accumulate: false };
            // SAFETY: the shapes fit; the target takes `[1, 7]`.
            unsafe { product_by(kernel, Left::F32(Matrix::new(&a, 1, 20)), right, target) };
            for (j, c) in c.into_iter().enumerate() {
                let number = |p: usize| if transposed { matrix.at(j, p) } else { matrix.at(p, j) };
                let sum: f64 = (0..20).map(|p| f64::from(bf16::from_f32(number(p)).to_f32())).sum();
                assert!((f64::from(c) - sum).abs() < 1e-5, "column {j} is {c}, not {sum}");
            }
        }
    }
}

#[test]
fn what_is_not_a_finite_number_stays_in_its_row_and_column() {
    let (m, n, k) = (19, 101, 40);
    for kernel in Kernel::all() {
        for special in [f32::NAN, f32::INFINITY] {
            let (mut a, mut b) = (numbers(1, m * k), numbers(2, n * k));
            (a[17 * k + 5], b[99 * k + 7]) = (special, special);
            let mut c = vec![0.0; m * n];
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, n, k));
            let right = Right { matrix: &b, transposed: true, rounded: false };
            let target = Target { c: c.as_mut_ptr(), row_stride: n, accumulate: false };
            // SAFETY: the shapes fit; the target takes `[m, n]`.
            unsafe { product_by(kernel, Left::F32(a), right, target) };
            for (e, c) in c.iter().enumerate() {
                assert_eq!(c.is_finite(), e / n != 17 && e % n != 99, "element {e} is {c}");
            }
        }
    }
}
