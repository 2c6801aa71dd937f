//! Helpers of the tests: numbers, pools, comparisons, finite differences.

use half::bf16;

/// `count` numbers in (−1, 1) that only `seed` decides (SplitMix64).
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The nearest numbers of bf16.
pub(crate) fn rounded(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

/// The same numbers in f32.
pub(crate) fn widened(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

pub(crate) fn in_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Runs `compute` on 1 and on 3 threads, checks that every bit is the same, and gives the result.
pub(crate) fn on_any_threads(compute: impl Fn() -> Vec<Vec<f32>> + Sync) -> Vec<Vec<f32>> {
    let run = |threads| {
        if cfg!(miri) {
            return crate::threads::Pool::new(threads).install(&compute);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| crate::threads::Pool::new(threads).install(&compute))
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.len(), three.len());
    for (part, (a, b)) in one.iter().zip(&three).enumerate() {
        let differs = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(differs, None, "part {part} differs between 1 and 3 threads at this element");
        assert_eq!(a.len(), b.len());
    }
    one
}

/// Every element within `tolerance` of the expected one, relative to the largest expected.
#[track_caller]
pub(crate) fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: another length");
    let largest = expected.iter().fold(0.0_f64, |largest, e| largest.max(e.abs()));
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(a) - e).abs();
        assert!(difference <= tolerance * largest.max(1e-4), "{what}: element {i} is {a}, expected {e}");
    }
}

/// Compares `gradient` with central differences of `function` in f64.
#[track_caller]
pub(crate) fn assert_gradient(function: impl Fn(&[f64]) -> f64, at: &[f32], gradient: &[f32], what: &str) {
    let mut x = in_f64(at);
    let step = 1e-5;
    let expected: Vec<f64> = (0..x.len())
        .map(|i| {
            let original = x[i];
            x[i] = original + step;
            let above = function(&x);
            x[i] = original - step;
            let below = function(&x);
            x[i] = original;
            (above - below) / (2.0 * step)
        })
        .collect();
    assert_close(gradient, &expected, 2e-5, what);
}

/// Σ aᵢ·bᵢ in f64: a loss whose gradient by `a` is `b`.
pub(crate) fn inner(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum()
}
