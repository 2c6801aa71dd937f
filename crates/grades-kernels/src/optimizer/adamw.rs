//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) as `torch.optim.AdamW` computes it.

use super::update::{Update, apply};
use crate::dispatch::multiversion;
use crate::math::mul_add;

/// The hyper-parameters of a step, with PyTorch's names and defaults in mind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment (0.9).
    pub beta1: f64,
    /// Decay of the second moment (0.999).
    pub beta2: f64,
    /// Added to the root of the corrected second moment (1e-8).
    pub epsilon: f64,
    /// Decoupled: the weight shrinks by `learning_rate · weight_decay` of itself (0.01).
    pub weight_decay: f64,
    /// The number of this step for this parameter, from 1: corrects the moments' start at zero.
    pub step: u64,
    /// The learning rate of the step before, if its gain is wanted. Without a step before the gain is 0.
    pub gain_of: Option<f64>,
}

/// The moments of one parameter, as long as it; zeros before the first step.
#[derive(Debug)]
pub struct AdamWState<'a> {
    /// Moving average of the gradient.
    pub first_moment: &'a mut [f32],
    /// Moving average of its square.
    pub second_moment: &'a mut [f32],
}

/// The factors of the step before, with which its change is found again in the moments that it left.
#[derive(Clone, Copy)]
struct Last {
    /// Of the weight as it is now.
    decay: f32,
    /// Of the first moment over the denominator.
    step_size: f32,
    root_correction2: f32,
    epsilon: f32,
}

impl Last {
    /// With step t the weight went from w to `w · (1 − η λ) − s · r`: its change is `−(η λ · w_now + s · r) / (1 − η λ)`.
    fn of(options: &AdamW) -> Option<Self> {
        let learning_rate = options.gain_of.filter(|_| options.step > 1)?;
        let (steps, decay) = ((options.step - 1) as f64, learning_rate * options.weight_decay);
        Some(Self {
            decay: (decay / (1.0 - decay)) as f32,
            step_size: (learning_rate / (1.0 - options.beta1.powf(steps)) / (1.0 - decay)) as f32,
            root_correction2: (1.0 - options.beta2.powf(steps)).sqrt() as f32,
            epsilon: options.epsilon as f32,
        })
    }
}

/// The factors of one step in f32, made in f64 as PyTorch does.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    gradient: f32,
    keep: f32,
    toward1: f32,
    beta2: f32,
    toward2: f32,
    root_correction2: f32,
    epsilon: f32,
    step_size: f32,
}

impl Factors {
    /// # Panics
    /// If `step` is 0.
    pub(super) fn of(options: &AdamW, gradient_scale: f32) -> Self {
        assert!(options.step > 0, "steps count from 1");
        let steps = options.step as f64;
        Self {
            gradient: gradient_scale,
            keep: (1.0 - options.learning_rate * options.weight_decay) as f32,
            toward1: (1.0 - options.beta1) as f32,
            beta2: options.beta2 as f32,
            toward2: (1.0 - options.beta2) as f32,
            root_correction2: (1.0 - options.beta2.powf(steps)).sqrt() as f32,
            epsilon: options.epsilon as f32,
            step_size: (options.learning_rate / (1.0 - options.beta1.powf(steps))) as f32,
        }
    }
}

/// One AdamW step. Returns the gain of the step before, −⟨gradient, change of the parameter in it⟩ with the gradient before
/// scaling, if it is wanted, else 0: found in the moments while they are in the cache, so that nothing must be kept for it.
///
/// # Panics
/// If the lengths differ or `step` is 0.
pub fn adamw(options: &AdamW, update: Update, state: AdamWState) -> f64 {
    let factors = Factors::of(options, update.gradient_scale);
    let (AdamWState { first_moment, second_moment }, last) = (state, Last::of(options));
    apply(update, [first_moment, second_moment], |parameter, gradient, [first, second]| {
        let gain = last.map_or(0.0, |last| gain_run(parameter, gradient, first, second, last));
        step_run(parameter, gradient, first, second, factors);
        gain
    })
}

/// Sums that are added side by side, so that the compiler can use vectors.
const LANES: usize = 16;

multiversion! {
    fn gain_run<FMA>(parameter: &[f32], gradient: &[f32], first: &[f32], second: &[f32], last: Last) -> f64 {
        let mut sums = [0.0_f32; LANES];
        let chunks = parameter.chunks(LANES).zip(gradient.chunks(LANES));
        let moments = first.chunks(LANES).zip(second.chunks(LANES));
        for ((parameter, gradient), (first, second)) in chunks.zip(moments) {
            let elements = parameter.iter().zip(gradient).zip(first.iter().zip(second));
            for (sum, ((parameter, gradient), (first, second))) in sums.iter_mut().zip(elements) {
                let denominator = second.sqrt() / last.root_correction2 + last.epsilon;
                let change = last.step_size * (first / denominator) + last.decay * parameter;
                *sum = mul_add::<FMA>(*gradient, change, *sum);
            }
        }
        sums.iter().map(|&sum| f64::from(sum)).sum()
    }

    pub(super) fn step_run<FMA>(
        parameter: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], factors: Factors,
    ) {
        let moments = first.iter_mut().zip(second);
        for ((parameter, gradient), (first, second)) in parameter.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * factors.gradient;
            *first = mul_add::<FMA>(gradient - *first, factors.toward1, *first);
            *second = mul_add::<FMA>(factors.toward2 * gradient, gradient, factors.beta2 * *second);
            let denominator = second.sqrt() / factors.root_correction2 + factors.epsilon;
            *parameter = *parameter * factors.keep - factors.step_size * (*first / denominator);
        }
    }
}
