//! The optimizer's update, and what the freezing rule measures, in one pass over the memory.
//!
//! [`adamw`] and [`sgd`] update a parameter and measure its gradient, before clipping, against the previous step's
//! (∇W_t − ∇W_{t−1}, Eq. 1 of the paper) and the update itself. [`measure`] only measures.

mod adamw;
mod block;
mod elementwise;
mod sgd;
#[cfg(test)]
mod tests;

pub use adamw::{AdamW, AdamWState, adamw};
pub use elementwise::{axpy, measure, scale, sum_squares};
pub use sgd::{Sgd, sgd};

/// One parameter and its gradient in an optimizer step; all slices of one length.
#[derive(Debug)]
pub struct Update<'a> {
    /// The parameter, updated in place.
    pub parameter: &'a mut [f32],
    /// Its gradient.
    pub gradient: &'a [f32],
    /// Factor of the gradient for the update (clipping). The measurements are of the gradient without it.
    pub gradient_scale: f32,
    /// Whether to measure, and against what.
    pub measure: Measure<'a>,
}

/// What to measure a gradient against.
#[derive(Debug)]
pub enum Measure<'a> {
    /// Measure nothing; the sums are zero.
    Off,
    /// There is no previous gradient: it counts as 0, so the change is the gradient itself.
    First,
    /// Against the previous gradient, which the caller replaces itself, by keeping the present gradient's buffer.
    Against(&'a [f32]),
    /// Against the previous gradient, and write the present one over it.
    Replace(&'a mut [f32]),
}

/// Sums over the elements of one parameter: of its gradient g, its previous gradient p and its weight w.
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
    /// Σ |w after − w before|.
    pub weight_l1_change: f64,
    /// Σ (w after − w before)².
    pub weight_sq_change: f64,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.l1 += other.l1;
        self.l1_change += other.l1_change;
        self.sq += other.sq;
        self.sq_change += other.sq_change;
        self.weight_l1_change += other.weight_l1_change;
        self.weight_sq_change += other.weight_sq_change;
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
