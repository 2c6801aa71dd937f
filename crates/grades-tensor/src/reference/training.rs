//! What training does to parameters and gradients.

use grades::Norm;

use super::memory::{Reference, tensor, values, values_mut};
use super::projections::dot;
use crate::device::{Measure, Training, Update};
use crate::dtype::Dtype;
use crate::spec::{AdamW, Sgd, Sums};
use crate::tensor::Tensor;

impl Training for Reference {
    fn adamw(&self, update: Update<'_>, [first, second]: [&mut Tensor; 2], options: &AdamW) -> f64 {
        let AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step, gain_of } = *options;
        let steps_before = (step - 1) as f64;
        let before = [beta1, beta2].map(|beta| 1.0 - beta.powf(steps_before));
        let last = gain_of.filter(|_| step > 1);
        let mut gain = 0.0;
        let (correction1, correction2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
        let (first, second) = (values_mut(first), values_mut(second));
        for (i, g) in values(update.gradient).iter().enumerate() {
            if let Some(rate) = last {
                let w = f64::from(values(update.parameter)[update.first + i]);
                let (m, v) = (f64::from(first[i]) / before[0], f64::from(second[i]) / before[1]);
                let was = (w + rate * m / (v.sqrt() + epsilon)) / (1.0 - rate * weight_decay);
                gain -= f64::from(*g) * (w - was);
            }
            let g = f64::from(g * update.gradient_scale);
            let m = beta1 * f64::from(first[i]) + (1.0 - beta1) * g;
            let v = beta2 * f64::from(second[i]) + (1.0 - beta2) * g * g;
            (first[i], second[i]) = (m as f32, v as f32);
            let w = &mut values_mut(update.parameter)[update.first + i];
            let decayed = f64::from(*w) * (1.0 - learning_rate * weight_decay);
            *w = (decayed - learning_rate * (m / correction1) / ((v / correction2).sqrt() + epsilon)) as f32;
        }
        gain
    }

    fn sgd(&self, update: Update<'_>, velocity: Option<&mut Tensor>, options: &Sgd) {
        let Sgd { learning_rate, momentum, nesterov, weight_decay, first } = *options;
        let mut velocity = velocity.map(values_mut);
        for (i, g) in values(update.gradient).iter().enumerate() {
            let w = &mut values_mut(update.parameter)[update.first + i];
            let g = f64::from(g * update.gradient_scale) + weight_decay * f64::from(*w);
            let direction = match velocity.as_deref_mut().filter(|_| momentum > 0.0) {
                None => g,
                Some(velocity) => {
                    let v = if first { g } else { momentum * f64::from(velocity[i]) + g };
                    velocity[i] = v as f32;
                    if nesterov { g + momentum * v } else { v }
                }
            };
            *w = (f64::from(*w) - learning_rate * direction) as f32;
        }
    }

    fn measure(&self, gradients: &[Measure<'_>]) -> Vec<Sums> {
        let one = |measure: &Measure<'_>| {
            let (now, shape) = (values(measure.gradient), measure.gradient.shape());
            let before = measure.previous.map(values);
            Sums {
                squares: dot(now, now),
                norm: measure.norm.and_then(|norm| norm.of(now, shape).ok()),
                previous: measure
                    .norm
                    .zip(before.filter(|_| measure.want_previous))
                    .and_then(|(norm, before)| norm.of(before, shape).ok()),
                change: measure.norm.zip(before).and_then(|(norm, before)| norm.of_difference(now, before, shape).ok()),
            }
        };
        gradients.iter().map(one).collect()
    }

    fn distances(&self, pairs: &[(&Tensor, &Tensor)], norm: Norm) -> Vec<Option<f64>> {
        let distance = |(a, b): &(&Tensor, &Tensor)| norm.of_difference(values(a), values(b), a.shape()).ok();
        pairs.iter().map(distance).collect()
    }

    fn mask(&self, tensor: &mut Tensor, first: usize, keep: &[bool]) {
        let values = &mut values_mut(tensor)[first..];
        values.iter_mut().zip(keep).filter(|(_, keep)| !**keep).for_each(|(value, _)| *value = 0.0);
    }

    fn part(&self, of: &Tensor, first: usize, shape: [usize; 2]) -> Tensor {
        tensor(values(of)[first..][..shape[0] * shape[1]].to_vec(), shape, Dtype::F32)
    }

    fn set_part(&self, tensor: &mut Tensor, first: usize, part: &Tensor) {
        values_mut(tensor)[first..][..part.len()].copy_from_slice(values(part));
    }

    fn average(&self, average: &mut Tensor, tensor: &Tensor, first: usize, weight: f32) {
        for (average, value) in values_mut(average).iter_mut().zip(&values(tensor)[first..]) {
            *average += weight * (value - *average);
        }
    }
}
