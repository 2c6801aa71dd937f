//! What training does to parameters and gradients.

use grades::Norm;
use grades_kernels::elementwise;
use grades_kernels::optimizer::{self as kernel, AdamWState, Codes};

use super::processor::Cpu;
use super::values::{codes, slice, tensor, vector};
use crate::device::{Blockwise, Measure, Training, Update};
use crate::dtype::Dtype;
use crate::spec::{AdamW, Lion, Muon, Sgd, Sums};
use crate::tensor::Tensor;

fn kernel_update<'a>(update: Update<'a>) -> kernel::Update<'a> {
    let Update { parameter, first, gradient, gradient_scale } = update;
    let parameter = &mut vector::<f32>(parameter, None)[first..][..gradient.len()];
    kernel::Update { parameter, gradient: slice(gradient), gradient_scale }
}

impl Training for Cpu {
    fn adamw(&self, update: Update<'_>, [first, second]: [&mut Tensor; 2], options: &AdamW) -> f64 {
        let state = AdamWState { first_moment: vector(first, None), second_moment: vector(second, None) };
        kernel::adamw(options, kernel_update(update), state)
    }

    fn adamw_8bit(&self, update: Update<'_>, moments: [Blockwise<'_>; 2], options: &AdamW) {
        let moments = moments.map(|of| Codes { codes: codes(of.codes), scales: vector(of.scales, None) });
        kernel::adamw_8bit(options, kernel_update(update), moments);
    }

    fn lion(&self, update: Update<'_>, momentum: &mut Tensor, options: &Lion) {
        kernel::lion(options, kernel_update(update), vector(momentum, None));
    }

    fn muon(&self, update: Update<'_>, momentum: &mut Tensor, options: &Muon) {
        let shape = update.gradient.shape();
        kernel::muon(options, kernel_update(update), shape, vector(momentum, None));
    }

    fn sgd(&self, update: Update<'_>, velocity: Option<&mut Tensor>, options: &Sgd) {
        let velocity = velocity.map(|velocity| vector::<f32>(velocity, None).as_mut_slice());
        kernel::sgd(options, kernel_update(update), velocity);
    }

    fn measure(&self, gradients: &[Measure<'_>]) -> Vec<Sums> {
        gradients.iter().map(measure).collect()
    }

    fn distances(&self, pairs: &[(&Tensor, &Tensor)], norm: Norm) -> Vec<Option<f64>> {
        let distance = |(a, b): &(&Tensor, &Tensor)| norm.of_difference(slice(a), slice(b), a.shape()).ok();
        pairs.iter().map(distance).collect()
    }

    fn mask(&self, tensor: &mut Tensor, first: usize, keep: &[bool]) {
        if tensor.dtype() == Dtype::U8 {
            let of_keep = codes(tensor)[first..].iter_mut().zip(keep);
            of_keep.filter(|(_, keep)| !**keep).for_each(|(code, _)| *code = 0);
            return;
        }
        elementwise::zero_masked(&mut vector::<f32>(tensor, None)[first..][..keep.len()], keep);
    }

    fn part(&self, of: &Tensor, first: usize, shape: [usize; 2]) -> Tensor {
        tensor(slice::<f32>(of)[first..][..shape[0] * shape[1]].to_vec(), shape)
    }

    fn set_part(&self, tensor: &mut Tensor, first: usize, part: &Tensor) {
        vector::<f32>(tensor, None)[first..][..part.len()].copy_from_slice(slice(part));
    }

    fn average(&self, average: &mut Tensor, tensor: &Tensor, first: usize, weight: f32) {
        let values = &slice::<f32>(tensor)[first..][..average.len()];
        elementwise::lerp(weight, values, vector::<f32>(average, None));
    }
}

fn measure(&Measure { gradient, previous, norm, want_previous }: &Measure<'_>) -> Sums {
    let (now, shape) = (slice::<f32>(gradient), gradient.shape());
    let before = previous.map(slice::<f32>);
    let Some(norm) = norm else {
        return Sums { squares: kernel::sum_squares(now), ..Sums::default() };
    };
    let before_wanted = before.filter(|_| want_previous);
    let elementwise = |norm_of: fn(&kernel::Sums) -> f64, change_of: fn(&kernel::Sums) -> f64| {
        let sums = kernel::measure(now, before.map_or(kernel::Measure::First, kernel::Measure::Against));
        let of_previous = |values| norm_of(&kernel::measure(values, kernel::Measure::First));
        Sums {
            squares: sums.sq,
            norm: Some(norm_of(&sums)),
            previous: before_wanted.map(of_previous),
            change: before.map(|_| change_of(&sums)),
        }
    };
    match norm {
        Norm::L1 => elementwise(|s| s.l1, |s| s.l1_change),
        Norm::Frobenius => elementwise(|s| s.sq.sqrt(), |s| s.sq_change.sqrt()),
        // Not sums over elements.
        Norm::Spectral | Norm::Inf | Norm::One => Sums {
            squares: kernel::sum_squares(now),
            norm: norm.of(now, shape).ok(),
            previous: before_wanted.and_then(|before| norm.of(before, shape).ok()),
            change: before.and_then(|before| norm.of_difference(now, before, shape).ok()),
        },
    }
}
