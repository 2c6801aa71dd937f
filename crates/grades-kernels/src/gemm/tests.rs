use super::{Matrix, MatrixMut, nn, nt, reference, tn, tn_new};
use crate::testing::{assert_close, in_f64, numbers, on_any_threads};

type Product = fn(Matrix, Matrix, MatrixMut, bool);

/// Rows and columns of `a` and `b` for a product of `[m, k]` and `[k, n]`.
type Shape = fn(usize, usize, usize) -> [(usize, usize); 2];

const PRODUCTS: [(&str, Product, Product, Shape); 3] = [
    ("nt", nt, reference::nt, |m, n, k| [(m, k), (n, k)]),
    ("nn", nn, reference::nn, |m, n, k| [(m, k), (k, n)]),
    ("tn", tn, reference::tn, |m, n, k| [(k, m), (k, n)]),
];

const SIZES: [(usize, usize, usize); 14] = [
    (0, 5, 3),
    (5, 0, 3),
    (4, 3, 0),
    (1, 1, 1),
    (1, 130, 70),
    (130, 1, 70),
    (7, 9, 1),
    (7, 9, 2),
    (33, 17, 65),
    (64, 64, 64),
    (65, 129, 257),
    (40, 40, 64),
    (300, 97, 130),
    (97, 1030, 33),
];

/// Both products of one size into a buffer that holds something already, with rows `gap` further apart than long.
fn compare((m, n, k): (usize, usize, usize), gap: usize, accumulate: bool) {
    for (name, product, expected_product, shape) in PRODUCTS {
        let [(a_rows, a_columns), (b_rows, b_columns)] = shape(m, n, k);
        let a = numbers(1, a_rows * (a_columns + gap));
        let b = numbers(2, b_rows * (b_columns + gap));
        let before = if accumulate { numbers(3, m * (n + gap)) } else { vec![f32::NAN; m * (n + gap)] };
        let run = |product: Product| {
            let mut c = before.clone();
            let a = Matrix::with_stride(&a, a_rows, a_columns, a_columns + gap);
            let b = Matrix::with_stride(&b, b_rows, b_columns, b_columns + gap);
            product(a, b, MatrixMut::with_stride(&mut c, m, n, n + gap), accumulate);
            c
        };
        let actual = on_any_threads(|| vec![run(product)]).remove(0);
        let expected = run(expected_product);
        let what = format!("{name} {m}×{n}×{k} gap {gap} accumulate {accumulate}");
        let within = |c: &[f32]| -> Vec<f32> {
            c.chunks((n + gap).max(1)).flat_map(|row| &row[..n.min(row.len())]).copied().collect()
        };
        let tolerance = 3e-6 * (k as f64).max(4.0).sqrt();
        assert_close(&within(&actual), &in_f64(&within(&expected)), tolerance, &what);
        let between = |c: &[f32]| -> Vec<u32> {
            c.chunks((n + gap).max(1)).flat_map(|row| &row[n.min(row.len())..]).map(|x| x.to_bits()).collect()
        };
        assert_eq!(between(&actual), between(&before), "{what} wrote between the rows");
    }
}

#[test]
fn products_equal_the_reference_at_any_size() {
    for size in SIZES {
        compare(size, 0, false);
        compare(size, 0, true);
    }
}

#[test]
fn products_work_on_parts_of_wider_matrices() {
    for size in [(1, 1, 1), (33, 17, 65), (64, 130, 48)] {
        compare(size, 5, false);
        compare(size, 5, true);
    }
}

#[test]
fn a_product_into_new_memory_is_the_same() {
    for (m, n, k) in SIZES {
        let (a, b) = (numbers(1, k * m), numbers(2, k * n));
        let (a, b) = (Matrix::new(&a, k, m), Matrix::new(&b, k, n));
        let mut c = vec![f32::NAN; m * n];
        tn(a, b, MatrixMut::new(&mut c, m, n), false);
        assert_eq!(tn_new(a, b), c, "{m}×{n}×{k}");
    }
}

#[test]
#[should_panic(expected = "does not fit")]
fn a_matrix_longer_than_its_data_is_refused() {
    Matrix::new(&[0.0; 5], 2, 3);
}

#[test]
#[should_panic(expected = "inner dimensions")]
fn products_of_unequal_inner_dimensions_are_refused() {
    nn(Matrix::new(&[0.0; 6], 2, 3), Matrix::new(&[0.0; 4], 2, 2), MatrixMut::new(&mut [0.0; 4], 2, 2), false);
}
