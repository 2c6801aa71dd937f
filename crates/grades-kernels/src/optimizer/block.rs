//! Walking over a parameter, its gradient and its state together, and measuring on the way.

use super::{Measure, Sums, Update};
use crate::dispatch::multiversion;
use crate::math::mul_add;
use crate::threads::map;

/// Elements of a block of work: fixed, so that sums do not depend on the number of threads.
pub(super) const BLOCK: usize = 16_384;

/// Elements that are updated and then measured while they are in the first-level cache, and that f32 lanes sum before
/// the sum goes on in f64.
const RUN: usize = 1024;

/// Applies `step` to parts of the parameter (parameter, gradient, states) and measures what `update` asks for.
///
/// # Panics
/// If the lengths differ.
pub(super) fn apply<const STATES: usize>(
    update: Update,
    states: [&mut [f32]; STATES],
    step: impl Fn(&mut [f32], &[f32], [&mut [f32]; STATES]) + Sync,
) -> Sums {
    let Update { parameter, gradient, measure, .. } = update;
    let len = parameter.len();
    assert_eq!(gradient.len(), len);
    assert!(states.iter().all(|state| state.len() == len), "an optimizer state is not as long as its parameter");
    measure.check(len);
    let mut rest = Part { parameter, gradient, states, measure };
    let parts: Vec<_> = (0..len.div_ceil(BLOCK)).map(|_| rest.take(BLOCK)).collect();
    let sums = map(parts, |mut block| {
        let mut sums = Sums::default();
        while !block.parameter.is_empty() {
            let part = block.take(RUN);
            if matches!(part.measure, Measure::Off) {
                step(part.parameter, part.gradient, part.states);
                continue;
            }
            let mut before = [0.0; RUN];
            let before = &mut before[..part.parameter.len()];
            before.copy_from_slice(part.parameter);
            step(part.parameter, part.gradient, part.states);
            let [l1, sq] = change(part.parameter, before);
            sums.weight_l1_change += l1;
            sums.weight_sq_change += sq;
            measure_run(part.gradient, part.measure, &mut sums);
        }
        sums
    });
    sums.into_iter().sum()
}

/// Measures a whole gradient.
///
/// # Panics
/// If the previous gradient has another length.
pub(super) fn measure_all(gradient: &[f32], mut measure: Measure) -> Sums {
    measure.check(gradient.len());
    let blocks: Vec<_> = gradient.chunks(BLOCK).map(|gradient| (gradient, measure.take(BLOCK))).collect();
    let sums = map(blocks, |(gradient, mut measure)| {
        let mut sums = Sums::default();
        for gradient in gradient.chunks(RUN) {
            measure_run(gradient, measure.take(RUN), &mut sums);
        }
        sums
    });
    sums.into_iter().sum()
}

/// Σ x² of a block.
pub(super) fn sum_squares(block: &[f32]) -> f64 {
    block.chunks(RUN).map(|run| norms(run)[1]).sum()
}

/// A range of elements in everything that a step touches.
struct Part<'a, const STATES: usize> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    states: [&'a mut [f32]; STATES],
    measure: Measure<'a>,
}

impl<'a, const STATES: usize> Part<'a, STATES> {
    /// Splits off the first `count` elements, or what is left.
    fn take(&mut self, count: usize) -> Self {
        Part {
            parameter: take_mut(&mut self.parameter, count),
            gradient: take(&mut self.gradient, count),
            states: self.states.each_mut().map(|state| take_mut(state, count)),
            measure: self.measure.take(count),
        }
    }
}

impl<'a> Measure<'a> {
    fn check(&self, len: usize) {
        let previous = match self {
            Measure::Off | Measure::First => return,
            Measure::Against(previous) => previous.len(),
            Measure::Replace(previous) => previous.len(),
        };
        assert_eq!(previous, len, "the previous gradient has another length");
    }

    fn take(&mut self, count: usize) -> Self {
        match self {
            Measure::Off => Measure::Off,
            Measure::First => Measure::First,
            Measure::Against(previous) => Measure::Against(take(previous, count)),
            Measure::Replace(previous) => Measure::Replace(take_mut(previous, count)),
        }
    }
}

fn take<'a>(rest: &mut &'a [f32], count: usize) -> &'a [f32] {
    rest.split_off(..count.min(rest.len())).unwrap_or_default()
}

fn take_mut<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    let count = count.min(rest.len());
    rest.split_off_mut(..count).unwrap_or_default()
}

/// Measures a run of a gradient and keeps it as the next previous one if asked.
fn measure_run(gradient: &[f32], measure: Measure, sums: &mut Sums) {
    if matches!(measure, Measure::Off) {
        return;
    }
    let [l1, sq] = norms(gradient);
    let [l1_change, sq_change] = match measure {
        Measure::Off | Measure::First => [l1, sq],
        Measure::Against(previous) => change(gradient, previous),
        Measure::Replace(previous) => {
            let sums = change(gradient, previous);
            previous.copy_from_slice(gradient);
            sums
        }
    };
    sums.l1 += l1;
    sums.sq += sq;
    sums.l1_change += l1_change;
    sums.sq_change += sq_change;
}

/// Partial sums of one register.
type Lanes = [f32; 8];

#[inline(always)]
fn add_absolutes(sums: &mut Lanes, x: &Lanes) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum += x.abs();
    }
}

#[inline(always)]
fn add_squares<const FMA: bool>(sums: &mut Lanes, x: &Lanes) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = mul_add::<FMA>(*x, *x, *sum);
    }
}

#[inline(always)]
fn difference(a: &Lanes, b: &Lanes) -> Lanes {
    let mut difference = *a;
    for (difference, b) in difference.iter_mut().zip(b) {
        *difference -= b;
    }
    difference
}

/// The elements after the last whole register, followed by zeros.
#[inline(always)]
fn padded(rest: &[f32]) -> Lanes {
    let mut lanes = Lanes::default();
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = *x;
    }
    lanes
}

#[inline(always)]
fn total(lanes: &Lanes) -> f64 {
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

multiversion! {
    /// Σ |a| and Σ a² of a run.
    fn norms<FMA>(a: &[f32]) -> [f64; 2] {
        let (registers, rest) = a.as_chunks();
        let last = padded(rest);
        let (mut l1, mut sq) = (Lanes::default(), Lanes::default());
        add_absolutes(&mut l1, &last);
        add_squares::<FMA>(&mut sq, &last);
        for a in registers {
            add_absolutes(&mut l1, a);
            add_squares::<FMA>(&mut sq, a);
        }
        [total(&l1), total(&sq)]
    }

    /// Σ |a − b| and Σ (a − b)² of a run.
    fn change<FMA>(a: &[f32], b: &[f32]) -> [f64; 2] {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks(), b.as_chunks());
        let last = difference(&padded(a_rest), &padded(b_rest));
        let (mut l1, mut sq) = (Lanes::default(), Lanes::default());
        add_absolutes(&mut l1, &last);
        add_squares::<FMA>(&mut sq, &last);
        for (a, b) in a.iter().zip(b) {
            let change = difference(a, b);
            add_absolutes(&mut l1, &change);
            add_squares::<FMA>(&mut sq, &change);
        }
        [total(&l1), total(&sq)]
    }
}
