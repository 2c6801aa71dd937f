//! Blocks of a parameter, and the measuring of one.

use super::{Measure, Sums};
use crate::dispatch::multiversion;

/// Elements of a block of work: fixed, so that sums do not depend on the number of threads.
pub(super) const BLOCK: usize = 16_384;

/// Elements that f32 lanes sum before the sum goes on in f64.
const RUN: usize = 1024;
const LANES: usize = 8;

/// Cuts what a gradient is measured against into blocks, for a parameter of `len` elements.
///
/// # Panics
/// If the previous gradient has another length.
pub(super) fn measure_blocks(measure: Measure<'_>, len: usize) -> Vec<Measure<'_>> {
    let count = len.div_ceil(BLOCK);
    let blocks: Vec<_> = match measure {
        Measure::Off => std::iter::repeat_with(|| Measure::Off).take(count).collect(),
        Measure::First => std::iter::repeat_with(|| Measure::First).take(count).collect(),
        Measure::Against(previous) => {
            assert_eq!(previous.len(), len);
            previous.chunks(BLOCK).map(Measure::Against).collect()
        }
        Measure::Replace(previous) => {
            assert_eq!(previous.len(), len);
            previous.chunks_mut(BLOCK).map(Measure::Replace).collect()
        }
    };
    blocks
}

/// Measures the gradient of a block and keeps it as the next previous one if asked.
pub(super) fn measure_gradient(gradient: &[f32], measure: Measure, sums: &mut Sums) {
    let [l1, sq, l1_change, sq_change] = match measure {
        Measure::Off => return,
        Measure::First => {
            let [l1, sq] = norms(gradient);
            [l1, sq, l1, sq]
        }
        Measure::Against(previous) => norms_of_change(gradient, previous),
        Measure::Replace(previous) => {
            let sums = norms_of_change(gradient, previous);
            previous.copy_from_slice(gradient);
            sums
        }
    };
    sums.l1 += l1;
    sums.sq += sq;
    sums.l1_change += l1_change;
    sums.sq_change += sq_change;
}

/// Adds up N terms of every pair of elements: f32 lanes within a run, f64 across runs.
#[inline(always)]
fn accumulate<const N: usize>(a: &[f32], b: &[f32], terms: impl Fn(f32, f32) -> [f32; N]) -> [f64; N] {
    let mut total = [0.0_f64; N];
    for (a, b) in a.chunks(RUN).zip(b.chunks(RUN)) {
        let mut lanes = [[0.0_f32; LANES]; N];
        let (a_chunks, a_rest) = a.as_chunks::<LANES>();
        let (b_chunks, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for i in 0..LANES {
                let terms = terms(a[i], b[i]);
                for n in 0..N {
                    lanes[n][i] += terms[n];
                }
            }
        }
        for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            let terms = terms(*a, *b);
            for n in 0..N {
                lanes[n][i] += terms[n];
            }
        }
        for n in 0..N {
            total[n] += lanes[n].iter().map(|&lane| f64::from(lane)).sum::<f64>();
        }
    }
    total
}

multiversion! {
    /// Σ |a| and Σ a².
    pub(super) fn norms<FMA>(a: &[f32]) -> [f64; 2] {
        accumulate(a, a, |a, _| [a.abs(), a * a])
    }

    /// Σ |a|, Σ a², Σ |a − b| and Σ (a − b)².
    pub(super) fn norms_of_change<FMA>(a: &[f32], b: &[f32]) -> [f64; 4] {
        accumulate(a, b, |a, b| {
            let change = a - b;
            [a.abs(), a * a, change.abs(), change * change]
        })
    }

    /// Σ |a − b| and Σ (a − b)².
    pub(super) fn change<FMA>(a: &[f32], b: &[f32]) -> [f64; 2] {
        accumulate(a, b, |a, b| {
            let change = a - b;
            [change.abs(), change * change]
        })
    }

    /// Σ a².
    pub(super) fn squares<FMA>(a: &[f32]) -> f64 {
        accumulate(a, a, |a, _| [a * a])[0]
    }
}
