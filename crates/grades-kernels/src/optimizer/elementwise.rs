//! Measuring, summing and scaling whole gradients.

use rayon::prelude::*;

use super::block::{self, BLOCK, measure_all};
use super::{Measure, Sums};
use crate::dispatch::multiversion;
use crate::math::mul_add;

/// Measures a gradient without an update: the weight's sums are zero.
///
/// # Panics
/// If the previous gradient has another length.
pub fn measure(gradient: &[f32], against: Measure) -> Sums {
    measure_all(gradient, against)
}

/// Σ x², for the global norm of the gradients.
pub fn sum_squares(x: &[f32]) -> f64 {
    let sums: Vec<f64> = x.par_chunks(BLOCK).map(block::sum_squares).collect();
    sums.into_iter().sum()
}

/// `y += factor · x`.
///
/// # Panics
/// If the lengths differ.
pub fn axpy(factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| axpy_block(factor, x, y));
}

/// `x *= factor`.
pub fn scale(factor: f32, x: &mut [f32]) {
    x.par_chunks_mut(BLOCK).for_each(|x| scale_block(factor, x));
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
