//! The search for the scale of a few values, and for their least, that leave the smallest weighted error.

use super::{extreme, nearest};

/// Magnitudes below this are as good as zero.
const NOTHING: f32 = 1e-15;

/// How the scales around the plain one are tried: `(first + i · step + most) / (largest − minimum)` for `i` up to `steps`, in codes
/// a unit.
#[derive(Clone, Copy)]
pub(super) struct Trials {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) steps: u8,
}

/// The scale d and the minimum m ≥ 0 such that d · q − m, with q from 0 to `most`, is nearest to `values`: the sum of `weights`
/// times squared errors is least among the trials. For each rounding of the values by a trial, d and m are the weighted least
/// squares solution; the next trial rounds from the best m so far.
#[inline(always)]
pub(super) fn with_minimum<const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    most: f32,
    trials: Trials,
) -> (f32, f32) {
    let (mut least, mut largest) = (values[0], values[0]);
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for i in 0..N {
        least = least.min(values[i]);
        largest = largest.max(values[i]);
        sum_w += weights[i];
        sum_x += weights[i] * values[i];
    }
    let least = least.min(0.0);
    if largest == least {
        return (0.0, -least);
    }
    let codes = |per_unit: f32, least: f32| values.map(|value| nearest(per_unit * (value - least)).clamp(0.0, most));
    let error = |codes: &[f32; N], scale: f32, minimum: f32| {
        let mut sum = 0.0;
        for i in 0..N {
            let difference = scale * codes[i] + minimum - values[i];
            sum += weights[i] * difference * difference;
        }
        sum
    };
    let per_unit = most / (largest - least);
    let mut best = (error(&codes(per_unit, least), 1.0 / per_unit, least), 1.0 / per_unit, least);
    for trial in 0..=trials.steps {
        // From the best minimum so far on.
        let least = best.2;
        let codes = codes((trials.first + trials.step * f32::from(trial) + most) / (largest - least), least);
        let (mut sum_q, mut sum_qq, mut sum_xq) = (0.0, 0.0, 0.0);
        for i in 0..N {
            let weighted = weights[i] * codes[i];
            sum_q += weighted;
            sum_qq += weighted * codes[i];
            sum_xq += weighted * values[i];
        }
        let determinant = sum_w * sum_qq - sum_q * sum_q;
        if determinant > 0.0 {
            let mut scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
            let mut minimum = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
            if minimum > 0.0 {
                (scale, minimum) = (sum_xq / sum_qq, 0.0);
            }
            let error = error(&codes, scale, minimum);
            if error < best.0 {
                best = (error, scale, minimum);
            }
        }
    }
    (best.1, -best.2)
}

/// The scale d such that d · q, with q from `-most` to `most - 1`, is nearest to `values`: squared errors count as much as the
/// square of the value. The trials put the largest magnitude at `-most`, give or take nine tenths of a code.
#[inline(always)]
pub(super) fn around_zero<const N: usize>(values: &[f32; N], most: f32) -> f32 {
    let extreme = extreme(values);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let sums = |per_unit: f32| {
        let (mut sum_xq, mut sum_qq) = (0.0, 0.0);
        for value in values {
            let code = nearest(per_unit * value).clamp(-most, most - 1.0);
            let weight = value * value;
            sum_xq += weight * value * code;
            sum_qq += weight * code * code;
        }
        (sum_xq, sum_qq)
    };
    // By least squares the error is Σ w x² − (Σ w x q)² / Σ w q².
    let (sum_xq, sum_qq) = sums(-most / extreme);
    let mut scale = if sum_qq > 0.0 { sum_xq / sum_qq } else { 0.0 };
    let mut best = scale * sum_xq;
    for tenths in (-9_i8..=9).filter(|tenths| *tenths != 0) {
        let (sum_xq, sum_qq) = sums(-(most + 0.1 * f32::from(tenths)) / extreme);
        if sum_qq > 0.0 && sum_xq * sum_xq > best * sum_qq {
            scale = sum_xq / sum_qq;
            best = scale * sum_xq;
        }
    }
    scale
}
