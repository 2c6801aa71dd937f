//! What the freezing rule measures of a gradient.

use crate::dispatch::multiversion;
use crate::math::mul_add;
use crate::threads::map;

/// Elements of a block of work: fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 16_384;

/// Elements that f32 lanes sum before the sum goes on in f64.
const RUN: usize = 1024;

/// What to measure a gradient against.
#[derive(Clone, Copy, Debug)]
pub enum Measure<'a> {
    /// There is no previous gradient: it counts as 0, so the change is the gradient itself.
    First,
    /// Against the previous gradient, which the caller replaces itself, by keeping the present gradient's buffer.
    Against(&'a [f32]),
}

/// Sums over the elements of a gradient g and of the one before, p.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ |g|.
    pub l1: f64,
    /// Σ |g − p|.
    pub l1_change: f64,
    /// Σ g².
    pub sq: f64,
    /// Σ (g − p)².
    pub sq_change: f64,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.l1 += other.l1;
        self.l1_change += other.l1_change;
        self.sq += other.sq;
        self.sq_change += other.sq_change;
    }
}

impl std::iter::Sum for Sums {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        let mut total = Self::default();
        for part in parts {
            total += part;
        }
        total
    }
}

/// Measures a gradient: its size, and its change from the previous step's (∇W_t − ∇W_{t−1}, Eq. 1 of the paper).
///
/// # Panics
/// If the previous gradient has another length.
pub fn measure(gradient: &[f32], against: Measure) -> Sums {
    let of_block: Vec<Sums> = match against {
        Measure::First => map(gradient.chunks(BLOCK), |gradient| {
            gradient.chunks(RUN).map(norms).map(|[l1, sq]| Sums { l1, l1_change: l1, sq, sq_change: sq }).sum()
        }),
        Measure::Against(previous) => {
            assert_eq!(previous.len(), gradient.len(), "the previous gradient has another length");
            map(gradient.chunks(BLOCK).zip(previous.chunks(BLOCK)), |(gradient, previous)| {
                let runs = gradient.chunks(RUN).zip(previous.chunks(RUN));
                runs.map(|(gradient, previous)| {
                    let ([l1, sq], [l1_change, sq_change]) = (norms(gradient), change(gradient, previous));
                    Sums { l1, l1_change, sq, sq_change }
                })
                .sum()
            })
        }
    };
    of_block.into_iter().sum()
}

/// Σ x², for the global norm of the gradients.
pub fn sum_squares(x: &[f32]) -> f64 {
    map(x.chunks(BLOCK), |block| block.chunks(RUN).map(|run| norms(run)[1]).sum::<f64>()).into_iter().sum()
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
