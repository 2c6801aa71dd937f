//! Elementary functions that the compiler can vectorise: no branches, no library calls.

use crate::Element;

/// Lanes of a reduction: one AVX-512 register, two of AVX2.
pub(crate) const LANES: usize = 16;

/// `a · b + c`, fused where the processor has the instruction.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adds the lanes, a power of two of them, up in a fixed order.
#[inline(always)]
fn sum_lanes<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ aᵢ·bᵢ over the shorter of the two.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[impl Element], b: &[impl Element]) -> f32 {
    // Twice the lanes of the other reductions: a fused multiply-add takes longer than a sum.
    let (a_chunks, a_rest) = a.as_chunks::<{ 2 * LANES }>();
    let (b_chunks, b_rest) = b.as_chunks::<{ 2 * LANES }>();
    let mut lanes = [0.0; 2 * LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = mul_add::<FMA>(a.widen(), b.widen(), *lane);
        }
    }
    let mut sum = sum_lanes(lanes);
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum = mul_add::<FMA>(a.widen(), b.widen(), sum);
    }
    sum
}

/// Σ xᵢ.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    rest.iter().fold(sum_lanes(lanes), |sum, x| sum + x)
}

/// The largest element; −∞ of nothing. Not a number is ignored, as in `f32::max`.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// 1.5 · 2²³: adding it rounds to a whole number, in the low bits.
const SHIFT: f32 = 12_582_912.0;

/// n and eʳ of x = n · ln 2 + r with |r| ≤ ln 2 / 2.
#[inline(always)]
fn reduced<const FMA: bool>(x: f32) -> (f32, f32) {
    const LN_2_HIGH: f32 = 0.693_359_4; // exact in nine bits, so that n · LN_2_HIGH is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let n = mul_add::<FMA>(x, std::f32::consts::LOG2_E, SHIFT) - SHIFT;
    let r = mul_add::<FMA>(n, -LN_2_HIGH, x);
    let r = mul_add::<FMA>(n, -LN_2_LOW, r);
    let mut p = 1.0 / 5040.0;
    p = mul_add::<FMA>(p, r, 1.0 / 720.0);
    p = mul_add::<FMA>(p, r, 1.0 / 120.0);
    p = mul_add::<FMA>(p, r, 1.0 / 24.0);
    p = mul_add::<FMA>(p, r, 1.0 / 6.0);
    p = mul_add::<FMA>(p, r, 0.5);
    p = mul_add::<FMA>(p, r, 1.0);
    (n, mul_add::<FMA>(p, r, 1.0))
}

/// eˣ within 2 ulp. Results below 2⁻¹²⁵ are 0, those above the largest number are ∞; not a number stays so.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, eʳ by its Taylor polynomial of degree 7, 2ⁿ by writing the exponent.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -87.0 { -87.0 } else { clamped };
    let (n, p) = reduced::<FMA>(clamped);
    // n + 126, not n + 127: n reaches 128 while the result is still finite, so that one factor of 2 comes last.
    let half_scale = f32::from_bits((n + SHIFT).to_bits().wrapping_add(126) << 23);
    let y = p * half_scale * 2.0;
    if x < -87.0 { 0.0 } else { y }
}

/// eˣ / 2ᵏ for a whole number `k` that is not far below x · log₂ e, within 2 ulp: unlike `exp(x − k · ln 2)` nothing is
/// rounded on the way, so that results for different `k` differ by exact powers of two. Below 2⁻¹²⁵ it is 0.
#[inline(always)]
pub(crate) fn exp_over<const FMA: bool>(x: f32, k: f32) -> f32 {
    let (n, p) = reduced::<FMA>(x);
    let exponent = n - k;
    // As in `exp`: the exponent in the low bits.
    let scale = f32::from_bits((exponent + SHIFT).to_bits().wrapping_add(127) << 23);
    if exponent < -125.0 { 0.0 } else { p * scale }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// tanh x, within a few ulp: near 0 by a polynomial (as Cephes does), else from eˣ.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = mul_add::<FMA>(p, z, 2.063_908_8e-2);
    p = mul_add::<FMA>(p, z, -5.373_971_5e-2);
    p = mul_add::<FMA>(p, z, 1.333_144_2e-1);
    p = mul_add::<FMA>(p, z, -3.333_328e-1);
    let small = mul_add::<FMA>(p * z, x, x);
    let large = 1.0 - 2.0 / (exp::<FMA>(2.0 * x.abs()) + 1.0);
    let large = if x < 0.0 { -large } else { large };
    if x.abs() < 0.625 { small } else { large }
}

/// The error function, within a few ulp: the rational approximation of Eigen's `erf`, and ±1 where that is the nearest
/// number, so that nothing of a GeLU far below zero remains.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    const ONE_FROM: f32 = 3.92;
    let z = x * x;
    let mut p = -2.726_142_4e-10;
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_3e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2] {
        p = mul_add::<FMA>(p, z, c);
    }
    let mut q = -1.456_607_2e-5;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        q = mul_add::<FMA>(q, z, c);
    }
    let y = x * p / q;
    let y = if x > ONE_FROM { 1.0 } else { y };
    if x < -ONE_FROM { -1.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::{erf, exp, exp_over, sigmoid, tanh};

    /// Units in the last place between a result and the exact value.
    fn ulps(actual: f32, exact: f64) -> f64 {
        let unit = f64::from(f32::EPSILON) * 2.0_f64.powi(exact.abs().log2().floor() as i32);
        (f64::from(actual) - exact).abs() / unit
    }

    fn worst(from: f32, to: f32, actual: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let steps = 200_000;
        let at = |i: i32| from + (to - from) * (i as f32 / steps as f32);
        (0..=steps).map(at).map(|x| ulps(actual(x), exact(f64::from(x)))).fold(0.0, f64::max)
    }

    /// erf by its Taylor series in f64, good for |x| ≤ 4 to 1e-9.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn exp_is_within_two_ulp() {
        assert!(worst(-86.6, 88.7, exp::<false>, f64::exp) < 2.0);
        assert!(worst(-1.0, 1.0, exp::<true>, f64::exp) < 2.0);
    }

    #[test]
    fn exp_over_a_power_of_two_is_exp_times_another() {
        assert!(worst(-60.0, 20.0, |x| exp_over::<false>(x, 25.0), |x| x.exp() / 25_f64.exp2()) < 2.0);
        for x in [-20.0, -1.3, 0.0, 7.7, 61.5] {
            let one = exp_over::<true>(x, 90.0);
            assert_eq!(one * 4.0, exp_over::<true>(x, 88.0), "{x}");
            assert!(one > 0.0);
        }
        assert_eq!(exp_over::<false>(-100.0, 0.0), 0.0);
        assert_eq!(exp_over::<false>(0.0, 126.0), 0.0);
        assert_eq!(exp_over::<false>(f32::NEG_INFINITY, 3.0), 0.0);
        assert!(exp_over::<false>(f32::NAN, 3.0).is_nan());
        // Far outside of what eˣ itself can be: e¹⁰⁰⁰ / 2¹⁴⁴³.
        assert!((exp_over::<true>(1000.0, 1443.0) - 0.809_465).abs() < 1e-4);
    }

    #[test]
    fn exp_at_its_ends() {
        assert_eq!(exp::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<false>(-200.0), 0.0);
        assert_eq!(exp::<false>(0.0), 1.0);
        assert_eq!(exp::<false>(89.0), f32::INFINITY);
        assert_eq!(exp::<false>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_sigmoid_and_erf_are_within_a_few_ulp() {
        assert!(worst(-12.0, 12.0, tanh::<false>, f64::tanh) < 4.0);
        assert!(worst(1e-6, 0.7, tanh::<true>, f64::tanh) < 4.0);
        assert!(worst(-80.0, 20.0, sigmoid::<true>, |x| 1.0 / (1.0 + (-x).exp())) < 4.0);
        assert!(worst(1e-6, 3.9, erf::<true>, exact_erf) < 8.0);
        assert_eq!([tanh::<true>(100.0), tanh::<true>(-100.0), tanh::<true>(0.0)], [1.0, -1.0, 0.0]);
        assert_eq!([erf::<true>(-30.0), erf::<true>(0.0), erf::<true>(f32::INFINITY)], [-1.0, 0.0, 1.0]);
        assert!(erf::<true>(f32::NAN).is_nan() && tanh::<true>(f32::NAN).is_nan());
    }
}
