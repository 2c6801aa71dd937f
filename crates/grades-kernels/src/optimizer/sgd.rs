//! Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it.

use super::update::{Update, apply};
use crate::dispatch::multiversion;
use crate::math::mul_add;

/// The hyper-parameters of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the velocity; 0 for none.
    pub momentum: f64,
    /// Look ahead along the velocity.
    pub nesterov: bool,
    /// Coupled: added to the gradient, times the weight.
    pub weight_decay: f64,
    /// Whether this is the parameter's first step, where the velocity is the gradient.
    pub first: bool,
}

#[derive(Clone, Copy)]
struct Factors {
    gradient: f32,
    decay: f32,
    momentum: f32,
    /// Of the velocity and of the gradient in the step that is taken.
    mix: (f32, f32),
    learning_rate: f32,
}

/// One SGD step. `velocity` is as long as the parameter, and not needed without
/// momentum.
///
/// # Panics
/// If the lengths differ, or there is momentum but no velocity.
pub fn sgd(options: &Sgd, update: Update, velocity: Option<&mut [f32]>) {
    let momentum = options.momentum as f32;
    let factors = Factors {
        gradient: update.gradient_scale,
        decay: options.weight_decay as f32,
        // The velocity's first value is the gradient, whatever the buffer holds.
        momentum: if options.first { 0.0 } else { momentum },
        mix: if options.nesterov { (momentum, 1.0) } else { (1.0, 0.0) },
        learning_rate: options.learning_rate as f32,
    };
    if options.momentum == 0.0 {
        apply(update, [], |parameter, gradient, []| {
            step_plain(parameter, gradient, factors);
            0.0
        });
        return;
    }
    let velocity = velocity.unwrap_or_default();
    apply(update, [velocity], |parameter, gradient, [velocity]| {
        if options.first {
            velocity.fill(0.0);
        }
        step_momentum(parameter, gradient, velocity, factors);
        0.0
    });
}

multiversion! {
    fn step_plain<FMA>(parameter: &mut [f32], gradient: &[f32], factors: Factors) {
        for (parameter, gradient) in parameter.iter_mut().zip(gradient) {
            let gradient = mul_add::<FMA>(factors.decay, *parameter, gradient * factors.gradient);
            *parameter = mul_add::<FMA>(-factors.learning_rate, gradient, *parameter);
        }
    }

    fn step_momentum<FMA>(parameter: &mut [f32], gradient: &[f32], velocity: &mut [f32], factors: Factors) {
        for ((parameter, gradient), velocity) in parameter.iter_mut().zip(gradient).zip(velocity) {
            let gradient = mul_add::<FMA>(factors.decay, *parameter, gradient * factors.gradient);
            *velocity = mul_add::<FMA>(factors.momentum, *velocity, gradient);
            let step = mul_add::<FMA>(factors.mix.0, *velocity, factors.mix.1 * gradient);
            *parameter = mul_add::<FMA>(-factors.learning_rate, step, *parameter);
        }
    }
}
