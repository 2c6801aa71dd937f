//! Lion (Chen et al. 2023, arXiv 2302.06675): steps of one size along the sign of a momentum.

use super::update::{Update, apply};
use crate::dispatch::multiversion;
use crate::math::mul_add;

/// The hyper-parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Weight of the momentum in the direction of the step (0.9).
    pub beta1: f64,
    /// Decay of the momentum (0.99).
    pub beta2: f64,
    /// Decoupled: the weight shrinks by `learning_rate · weight_decay` of itself.
    pub weight_decay: f64,
}

#[derive(Clone, Copy)]
struct Factors {
    gradient: f32,
    keep: f32,
    beta1: f32,
    toward1: f32,
    beta2: f32,
    toward2: f32,
    learning_rate: f32,
}

/// One step of Lion: `w ← (1 − η λ) w − η · sign(β₁ m + (1 − β₁) g)`, then `m ← β₂ m + (1 − β₂) g`. `momentum` is as long as the
/// parameter, zeros before the first step. Where the direction is 0, only the decay moves the weight.
///
/// # Panics
/// If the lengths differ.
pub fn lion(options: &Lion, update: Update, momentum: &mut [f32]) {
    let Lion { learning_rate, beta1, beta2, weight_decay } = *options;
    let factors = Factors {
        gradient: update.gradient_scale,
        keep: (1.0 - learning_rate * weight_decay) as f32,
        beta1: beta1 as f32,
        toward1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        toward2: (1.0 - beta2) as f32,
        learning_rate: learning_rate as f32,
    };
    apply(update, [momentum], |parameter, gradient, [momentum]| {
        step_run(parameter, gradient, momentum, factors);
        0.0
    });
}

multiversion! {
    fn step_run<FMA>(parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32], factors: Factors) {
        for ((parameter, gradient), momentum) in parameter.iter_mut().zip(gradient).zip(momentum) {
            let gradient = gradient * factors.gradient;
            let direction = mul_add::<FMA>(factors.beta1, *momentum, factors.toward1 * gradient);
            let sign = if direction == 0.0 { 0.0 } else { 1.0_f32.copysign(direction) };
            *parameter = *parameter * factors.keep - factors.learning_rate * sign;
            *momentum = mul_add::<FMA>(factors.beta2, *momentum, factors.toward2 * gradient);
        }
    }
}
