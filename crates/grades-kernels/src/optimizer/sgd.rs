//! Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it.

use rayon::prelude::*;

use super::block::{BLOCK, change, measure_blocks, measure_gradient};
use super::{Measure, Sums, Update};
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

/// One SGD step; gives what `update.measure` asks for. `velocity` is as long as the parameter, and not needed without
/// momentum.
///
/// # Panics
/// If the lengths differ, or there is momentum but no velocity.
pub fn sgd(options: &Sgd, update: Update, velocity: Option<&mut [f32]>) -> Sums {
    let Update { parameter, gradient, gradient_scale, measure } = update;
    let len = parameter.len();
    assert_eq!(gradient.len(), len);
    let momentum = options.momentum as f32;
    let factors = Factors {
        gradient: gradient_scale,
        decay: options.weight_decay as f32,
        // The velocity's first value is the gradient, whatever the buffer holds.
        momentum: if options.first { 0.0 } else { momentum },
        mix: if options.nesterov { (momentum, 1.0) } else { (1.0, 0.0) },
        learning_rate: options.learning_rate as f32,
    };
    let velocities: Vec<Option<&mut [f32]>> = if options.momentum == 0.0 {
        std::iter::repeat_with(|| None).take(len.div_ceil(BLOCK)).collect()
    } else {
        assert_eq!(velocity.as_ref().map(|v| v.len()), Some(len), "momentum needs a velocity as long as the parameter");
        velocity.into_iter().flat_map(|v| v.chunks_mut(BLOCK)).map(Some).collect()
    };
    let sums: Vec<Sums> = parameter
        .par_chunks_mut(BLOCK)
        .zip(gradient.par_chunks(BLOCK))
        .zip(velocities)
        .zip(measure_blocks(measure, len))
        .map(|(((parameter, gradient), velocity), measure)| {
            let mut sums = Sums::default();
            let mut before = [0.0; BLOCK];
            let before = &mut before[..parameter.len()];
            let measures = !matches!(measure, Measure::Off);
            if measures {
                before.copy_from_slice(parameter);
            }
            match velocity {
                None => step_plain(parameter, gradient, factors),
                Some(velocity) => {
                    if options.first {
                        velocity.fill(0.0);
                    }
                    step_momentum(parameter, gradient, velocity, factors);
                }
            }
            if measures {
                [sums.weight_l1_change, sums.weight_sq_change] = change(parameter, before);
                measure_gradient(gradient, measure, &mut sums);
            }
            sums
        })
        .collect();
    sums.into_iter().sum()
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
