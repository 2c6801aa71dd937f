//! Measuring, summing and scaling whole gradients.

use super::block::{self, BLOCK, measure_all};
use super::{Measure, Sums};
use crate::dispatch::multiversion;
use crate::math::mul_add;
use crate::threads::{each, map};

/// Measures a gradient without an update: the weight's sums are zero.
///
/// # Panics
/// If the previous gradient has another length.
pub fn measure(gradient: &[f32], against: Measure) -> Sums {
    measure_all(gradient, against)
}

/// Σ x², for the global norm of the gradients.
pub fn sum_squares(x: &[f32]) -> f64 {
    map(x.chunks(BLOCK), block::sum_squares).into_iter().sum()
}

/// `y += factor · x`.
///
/// # Panics
/// If the lengths differ.
pub fn axpy(factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    each(y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)), |(y, x)| axpy_block(factor, x, y));
}

/// `x *= factor`.
pub fn scale(factor: f32, x: &mut [f32]) {
    each(x.chunks_mut(BLOCK), |x| scale_block(factor, x));
}

multiversion! {
    fn axpy_block<FMA>(factor: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(factor, *x, *y);
        }
    }

    fn scale_block<FMA>(factor: f32, x: &mut [f32]) {
        for x in x {
            *x *= factor;
        }
    }
}
