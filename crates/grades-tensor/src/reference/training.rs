//! What training does to parameters and gradients.

use grades::Norm;

use super::memory::{Reference, tensor, values, values_mut};
use super::projections::dot;
use crate::device::{Blockwise, Measure, Training, Update};
use crate::dtype::Dtype;
use crate::spec::{AdamW, Lion, Muon, Sgd, StateMap, Sums};
use crate::tensor::Tensor;

/// Elements of a block of an 8-bit state.
const BLOCK: usize = 256;

/// The code whose value is nearest to x.
fn nearest(map: &StateMap, x: f32) -> f32 {
    let distance = |code: &u8| (map.value(*code) - x).abs();
    (0..=u8::MAX).min_by(|a, b| distance(a).total_cmp(&distance(b))).map_or(0.0, f32::from)
}

/// `a[m, k] · b[k, columns]`.
fn multiplied(a: &[f64], [rows, inner]: [usize; 2], b: &[f64], columns: usize) -> Vec<f64> {
    let element = |i: usize, j: usize| (0..inner).map(|k| a[i * inner + k] * b[k * columns + j]).sum();
    (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
}

fn transposed(x: &[f64], [rows, columns]: [usize; 2]) -> Vec<f64> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
}

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

    fn adamw_8bit(&self, update: Update<'_>, moments: [Blockwise<'_>; 2], options: &AdamW) {
        let [first, second] = moments;
        let shape = first.codes.shape();
        let decoded = |map: &StateMap, of: &Blockwise<'_>| {
            let value = |(i, code): (usize, &f32)| map.value(*code as u8) * values(of.scales)[i / BLOCK];
            tensor(values(of.codes).iter().enumerate().map(value).collect(), shape, Dtype::F32)
        };
        let (signed, unsigned) = (StateMap::signed(), StateMap::unsigned());
        let (mut m, mut v) = (decoded(signed, &first), decoded(unsigned, &second));
        self.adamw(update, [&mut m, &mut v], &AdamW { gain_of: None, ..*options });
        for (map, moment, into) in [(signed, m, first), (unsigned, v, second)] {
            for (block, moment) in values(&moment).chunks(BLOCK).enumerate() {
                let scale = moment.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                values_mut(into.scales)[block] = scale;
                for (code, value) in values_mut(into.codes)[block * BLOCK..].iter_mut().zip(moment) {
                    *code = if scale > 0.0 { nearest(map, value / scale) } else { 0.0 };
                }
            }
        }
    }

    fn lion(&self, update: Update<'_>, momentum: &mut Tensor, options: &Lion) {
        let Lion { learning_rate, beta1, beta2, weight_decay } = *options;
        let momentum = values_mut(momentum);
        for (i, g) in values(update.gradient).iter().enumerate() {
            let (g, m) = (f64::from(g * update.gradient_scale), f64::from(momentum[i]));
            let direction = beta1 * m + (1.0 - beta1) * g;
            let w = &mut values_mut(update.parameter)[update.first + i];
            let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
            *w = (f64::from(*w) * (1.0 - learning_rate * weight_decay) - learning_rate * sign) as f32;
            momentum[i] = (beta2 * m + (1.0 - beta2) * g) as f32;
        }
    }

    fn muon(&self, update: Update<'_>, momentum: &mut Tensor, options: &Muon) {
        let Muon { learning_rate, momentum: beta, nesterov, ns_steps, adjust, weight_decay } = *options;
        let shape @ [rows, columns] = update.gradient.shape();
        let ahead = if nesterov { beta } else { 1.0 };
        let (gradient, momentum) = (values(update.gradient), values_mut(momentum));
        let mut x = Vec::new();
        for (g, m) in gradient.iter().zip(momentum) {
            let g = f64::from(g * update.gradient_scale);
            let moved = beta * f64::from(*m) + (1.0 - beta) * g;
            *m = moved as f32;
            x.push(g + ahead * (moved - g));
        }
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-7);
        x.iter_mut().for_each(|x| *x /= length);
        for _ in 0..ns_steps {
            // a X + (b G + c G²) X with G = X Xᵀ.
            let gram = multiplied(&x, [rows, columns], &transposed(&x, [rows, columns]), rows);
            let square = multiplied(&gram, [rows, rows], &gram, rows);
            let mix: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| -4.7750 * g + 2.0315 * s).collect();
            let mixed = multiplied(&mix, [rows, rows], &x, columns);
            x.iter_mut().zip(mixed).for_each(|(x, mixed)| *x = 3.4445 * *x + mixed);
        }
        let step = learning_rate * adjust.factor(shape);
        for (i, x) in x.iter().enumerate() {
            let w = &mut values_mut(update.parameter)[update.first + i];
            *w = (f64::from(*w) * (1.0 - learning_rate * weight_decay) - step * x) as f32;
        }
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
