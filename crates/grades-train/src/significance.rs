//! Whether a difference is more than chance: between two models on the same questions, or between runs of the same seeds.
//!
//! Two models answered the same questions, so each question gives one difference. If the two were equally good, each difference
//! would as likely have the other sign: the test counts how often random signs give a sum as large as the one found
//! (Fisher's sign-flip permutation test, two-sided). It speaks of other questions of the same kind, for these trained
//! models; not of other seeds.

use grades_report::table::Mean;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Up to so many differences all signs are tried.
const EXACT: usize = 16;
/// Beyond, so many random ones.
const DRAWS: u32 = 50_000;

/// The probability that random signs give differences a sum at least as large as the one found, either way. The same
/// differences and seed give the same number.
#[must_use]
pub fn sign_flip(differences: &[f64], seed: u64) -> f64 {
    let differences: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let observed = differences.iter().sum::<f64>().abs();
    // Sums that are equal in exact numbers may differ by rounding.
    let least = observed - 1e-9 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let reaches = |bits: &mut dyn FnMut(usize) -> bool| {
        let sum: f64 = differences.iter().enumerate().map(|(i, d)| if bits(i) { *d } else { -d }).sum();
        sum.abs() >= least
    };
    if differences.len() <= EXACT {
        let all = 1_u32 << differences.len();
        let hits = (0..all).filter(|signs| reaches(&mut |index| signs >> index & 1 == 1)).count();
        return hits as f64 / f64::from(all);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut word = 0;
    let mut draw = || {
        reaches(&mut |index| {
            if index % 64 == 0 {
                word = random.next_u64();
            }
            word >> (index % 64) & 1 == 1
        })
    };
    let hits = (0..DRAWS).filter(|_| draw()).count();
    // The signs found are one of the draws, so that no p is 0.
    (hits + 1) as f64 / f64::from(DRAWS + 1)
}

/// Holm's correction for several tests: what to compare with the level instead of each p, in the same order.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut corrected = vec![0.0; p.len()];
    let mut largest = 0.0_f64;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max(((p.len() - rank) as f64 * p[index]).min(1.0));
        corrected[index] = largest;
    }
    corrected
}

/// The probability, either way, of a mean as far from 0 as that of `differences`, if they were drawn from a normal
/// distribution around 0: Student's test. `None` of fewer than two.
#[must_use]
pub fn t_test(differences: &[f64]) -> Option<f64> {
    let Mean { mean, deviation } = Mean::of(differences)?;
    let error = deviation? / (differences.len() as f64).sqrt();
    if error == 0.0 {
        return Some(if mean == 0.0 { 1.0 } else { 0.0 });
    }
    Some(1.0 - student_within((mean / error).abs(), differences.len() - 1))
}

/// The probability that a Student variable of `freedom` degrees of freedom lies between −t and t: the finite sums of
/// Abramowitz and Stegun, 26.7.3 and 26.7.4.
fn student_within(t: f64, freedom: usize) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let odd = freedom % 2 == 1;
    let mut term = if odd { cos } else { 1.0 };
    let mut sum = if freedom == 1 { 0.0 } else { term };
    let mut next = if odd { 3 } else { 2 };
    while next < freedom {
        term *= cos * cos * (next - 1) as f64 / next as f64;
        sum += term;
        next += 2;
    }
    if odd { std::f64::consts::FRAC_2_PI * (angle + sin * sum) } else { sin * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_quantiles_are_those_of_the_tables() {
        // Two-sided 5 % and 1 % points.
        for (freedom, five, one) in [
            (1, 12.706_204_736, 63.656_741_163),
            (2, 4.302_652_730, 9.924_843_201),
            (3, 3.182_446_305, 5.840_909_310),
            (4, 2.776_445_105, 4.604_094_871),
            (5, 2.570_581_836, 4.032_142_984),
            (10, 2.228_138_852, 3.169_272_673),
            (29, 2.045_229_642, 2.756_385_904),
        ] {
            assert!((student_within(five, freedom) - 0.95).abs() < 1e-9, "{freedom}");
            assert!((student_within(one, freedom) - 0.99).abs() < 1e-9, "{freedom}");
        }
        // 1, 2, 3: mean 2, error 1/√3, t = 2√3 with two degrees of freedom: p = 1 − t/√(2 + t²) = 1 − √(12/14).
        assert!((t_test(&[1.0, 2.0, 3.0]).unwrap() - (1.0 - (12.0_f64 / 14.0).sqrt())).abs() < 1e-12);
        assert_eq!((t_test(&[1.0]), t_test(&[0.5, 0.5]), t_test(&[0.0, 0.0])), (None, Some(0.0), Some(1.0)));
    }

    #[test]
    fn few_differences_are_enumerated() {
        // 1, 1, 1: only all three alike reach 3, 2 of 8 signs.
        assert_eq!(sign_flip(&[1.0, 0.0, 1.0, 1.0], 0), 0.25);
        // 3, 1, −1: the sum is 3. Signs of (3, 1, 1): |±3±1±1| is 5 or 3 six times of eight, and 1 twice.
        assert_eq!(sign_flip(&[3.0, 1.0, -1.0], 0), 0.75);
        // No difference at all, and one that is its own mirror image.
        assert_eq!((sign_flip(&[], 0), sign_flip(&[0.0, 0.0], 0), sign_flip(&[0.5], 0)), (1.0, 1.0, 1.0));
        assert_eq!(sign_flip(&[1.0, -1.0], 0), 1.0);
        // Ten alike: 2 / 1024. Thirds do not add up exactly in doubles.
        assert_eq!(sign_flip(&[1.0 / 3.0; 10], 0), 2.0 / 1024.0);
    }

    #[test]
    fn many_differences_are_drawn_close_to_the_binomial() {
        // 30 of +1 and 10 of −1: the sum of 40 signs is at least 20 either way with probability
        // 2 Σ_{k≥30} C(40, k) / 2⁴⁰ = 2 · 1221246132 / 2⁴⁰ = 0.0022214.
        let differences: Vec<f64> = (0..40).map(|index| if index < 30 { 1.0 } else { -1.0 }).collect();
        let p = sign_flip(&differences, 7);
        assert!((p - 0.002_221_4).abs() < 7e-4, "{p}");
        assert_eq!(p, sign_flip(&differences, 7));
        // 70 draws need more than one word of random signs: 38 against 32 is nothing, P(|sum| ≥ 6) = 0.550.
        let differences: Vec<f64> = (0..70).map(|index| if index < 38 { 1.0 } else { -1.0 }).collect();
        assert!((sign_flip(&differences, 1) - 0.550).abs() < 0.01);
        // All alike in forty: nothing drawn will reach it.
        assert_eq!(sign_flip(&[1.0; 40], 0), 1.0 / 50_001.0);
    }

    #[test]
    fn holm_by_hand() {
        // Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.5, and never less than before.
        let corrected = holm(&[0.03, 0.01, 0.5, 0.02]);
        for (found, expected) in corrected.iter().zip([0.06, 0.04, 0.5, 0.06]) {
            assert!((found - expected).abs() < 1e-12, "{corrected:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
