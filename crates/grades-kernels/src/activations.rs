//! Activation functions, plain and gated (`activation(gate) · up`, Shazeer 2020, arXiv 2002.05202), with gradients.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};
use std::mem::MaybeUninit;

use crate::Element;
use crate::dispatch::multiversion;
use crate::math::{erf, exp, mul_add, sigmoid, tanh};
use crate::threads::each;
use crate::unwritten::written;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`; gated, it is SwiGLU.
    Silu,
    /// `x · Φ(x)` with the error function: `gelu` of Hugging Face.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`: `gelu_pytorch_tanh` and `gelu_new`.
    GeluTanh,
}

/// Elements of a block of work.
const BLOCK: usize = 8192;

/// `activation(x)` of every element.
#[must_use]
pub fn activated_new<E: Element>(activation: Activation, x: &[E]) -> Vec<E> {
    let activate = |out: &mut [MaybeUninit<E>]| {
        each(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)), |(x, out)| match activation {
            Activation::Silu => plain_silu(x, out),
            Activation::Gelu => plain_gelu(x, out),
            Activation::GeluTanh => plain_gelu_tanh(x, out),
        });
    };
    // SAFETY: both are of one length, and each element is written.
    unsafe { written(x.len(), activate) }
}

/// The gradient of [`activated_new`] in x: `dout · activation′(x)`.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn activated_backward_new<E: Element>(activation: Activation, x: &[E], dout: &[E]) -> Vec<E> {
    assert_eq!(dout.len(), x.len());
    let gradient = |dx: &mut [MaybeUninit<E>]| {
        let blocks = x.chunks(BLOCK).zip(dout.chunks(BLOCK)).zip(dx.chunks_mut(BLOCK));
        each(blocks, |((x, dout), dx)| match activation {
            Activation::Silu => plain_silu_backward(x, dout, dx),
            Activation::Gelu => plain_gelu_backward(x, dout, dx),
            Activation::GeluTanh => plain_gelu_tanh_backward(x, dout, dx),
        });
    };
    // SAFETY: all three are of one length, and each element is written.
    unsafe { written(x.len(), gradient) }
}

/// Rows of a block of joined rows.
const BLOCK_ROWS: usize = 8;

/// `activation(gate) · up`, `[rows, width]`, of gates and ups that one product left side by side: `gate_up [rows, 2 · width]`.
///
/// # Panics
/// If the length is no whole number of rows.
#[must_use]
pub fn gated_joined_new<E: Element>(activation: Activation, gate_up: &[E], width: usize) -> Vec<E> {
    if gate_up.is_empty() {
        return Vec::new();
    }
    assert_eq!(gate_up.len() % (2 * width), 0, "gates and ups are no whole number of rows");
    let gate = |out: &mut [MaybeUninit<E>]| {
        let blocks = gate_up.chunks(BLOCK_ROWS * 2 * width).zip(out.chunks_mut(BLOCK_ROWS * width));
        each(blocks, |(gate_up, out)| {
            for (joined, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
                let (gate, up) = joined.split_at(width);
                gate_row(activation, gate, up, out);
            }
        });
    };
    // SAFETY: there are as many rows in both, and each is written.
    unsafe { written(gate_up.len() / 2, gate) }
}

/// `out = activation(gate) · up` of one row, on this thread; all of `out` is written.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn gate_row<E: Element>(activation: Activation, gate: &[E], up: &[E], out: &mut [MaybeUninit<E>]) {
    assert!(gate.len() == out.len() && up.len() == out.len());
    match activation {
        Activation::Silu => gated_silu(gate, up, out),
        Activation::Gelu => gated_gelu(gate, up, out),
        Activation::GeluTanh => gated_gelu_tanh(gate, up, out),
    }
}

/// The gradient of [`gated_joined_new`] from `dout [rows, width]`, of the gates and ups side by side, `[rows, 2 · width]`:
/// `dgate = dout · up · activation′(gate)` and `dup = dout · activation(gate)`.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn gated_joined_backward_new<E: Element>(
    activation: Activation,
    gate_up: &[E],
    dout: &[E],
    width: usize,
) -> Vec<E> {
    assert_eq!(gate_up.len(), 2 * dout.len());
    if dout.is_empty() {
        return Vec::new();
    }
    assert_eq!(dout.len() % width, 0, "the gradient is no whole number of rows");
    let block = BLOCK_ROWS * 2 * width;
    let gradients = |gradient: &mut [MaybeUninit<E>]| {
        let blocks = gate_up.chunks(block).zip(dout.chunks(BLOCK_ROWS * width)).zip(gradient.chunks_mut(block));
        each(blocks, |((gate_up, dout), gradient)| {
            let rows = gate_up.chunks_exact(2 * width).zip(dout.chunks_exact(width));
            for ((joined, dout), gradient) in rows.zip(gradient.chunks_exact_mut(2 * width)) {
                let ((gate, up), (dgate, dup)) = (joined.split_at(width), gradient.split_at_mut(width));
                match activation {
                    Activation::Silu => gated_silu_backward(gate, up, dout, dgate, dup),
                    Activation::Gelu => gated_gelu_backward(gate, up, dout, dgate, dup),
                    Activation::GeluTanh => gated_gelu_tanh_backward(gate, up, dout, dgate, dup),
                }
            }
        });
    };
    // SAFETY: there are as many rows in all three, and both halves of each are written, being as long as the row of `dout`.
    unsafe { written(gate_up.len(), gradients) }
}

/// Value and derivative of SiLU.
#[inline(always)]
fn silu<const FMA: bool>(x: f32) -> (f32, f32) {
    let s = sigmoid::<FMA>(x);
    (x * s, s * mul_add::<FMA>(x, 1.0 - s, 1.0))
}

/// Value and derivative of GeLU.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> (f32, f32) {
    let cumulative = 0.5 * (1.0 + erf::<FMA>(x * FRAC_1_SQRT_2));
    let density = exp::<FMA>(-0.5 * x * x) * (FRAC_2_SQRT_PI / (2.0 * SQRT_2));
    (x * cumulative, mul_add::<FMA>(x, density, cumulative))
}

/// Value and derivative of GeLU's tanh approximation.
#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> (f32, f32) {
    const C: f32 = 0.797_884_6; // √(2/π)
    let square = x * x;
    let t = tanh::<FMA>(C * x * mul_add::<FMA>(0.044_715, square, 1.0));
    let slope = C * mul_add::<FMA>(3.0 * 0.044_715, square, 1.0);
    let half = 0.5 * (1.0 + t);
    (x * half, mul_add::<FMA>(0.5 * x * slope, mul_add::<FMA>(-t, t, 1.0), half))
}

/// The four loops over one activation; the function is inlined into each, so each is vectorised.
macro_rules! loops {
    ($function:ident: $plain:ident $plain_backward:ident $gated:ident $gated_backward:ident) => {
        multiversion! {
            fn $plain<FMA; E: Element>(x: &[E], out: &mut [MaybeUninit<E>]) {
                for (x, out) in x.iter().zip(out) {
                    out.write(E::narrow($function::<FMA>(x.widen()).0));
                }
            }

            fn $plain_backward<FMA; E: Element>(x: &[E], dout: &[E], dx: &mut [MaybeUninit<E>]) {
                for ((x, dout), dx) in x.iter().zip(dout).zip(dx) {
                    dx.write(E::narrow(dout.widen() * $function::<FMA>(x.widen()).1));
                }
            }

            fn $gated<FMA; E: Element>(gate: &[E], up: &[E], out: &mut [MaybeUninit<E>]) {
                for ((gate, up), out) in gate.iter().zip(up).zip(out) {
                    out.write(E::narrow($function::<FMA>(gate.widen()).0 * up.widen()));
                }
            }

            fn $gated_backward<FMA; E: Element>(
                gate: &[E], up: &[E], dout: &[E], dgate: &mut [MaybeUninit<E>], dup: &mut [MaybeUninit<E>],
            ) {
                for (((gate, up), dout), (dgate, dup)) in gate.iter().zip(up).zip(dout).zip(dgate.iter_mut().zip(dup)) {
                    let (value, slope) = $function::<FMA>(gate.widen());
                    let dout = dout.widen();
                    dgate.write(E::narrow(dout * up.widen() * slope));
                    dup.write(E::narrow(dout * value));
                }
            }
        }
    };
}

loops!(silu: plain_silu plain_silu_backward gated_silu gated_silu_backward);
loops!(gelu: plain_gelu plain_gelu_backward gated_gelu gated_gelu_backward);
loops!(gelu_tanh: plain_gelu_tanh plain_gelu_tanh_backward gated_gelu_tanh gated_gelu_tanh_backward);

#[cfg(test)]
mod tests {
    use super::{Activation, activated_backward_new, activated_new, gated_joined_backward_new, gated_joined_new};
    use crate::testing::{assert_close, assert_gradient, in_f64, numbers, on_any_threads};

    const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

    fn reference(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => {
                let (mut term, mut sum) = (x / 2.0_f64.sqrt(), x / 2.0_f64.sqrt());
                for n in 1..150 {
                    term *= -x * x / 2.0 / f64::from(n);
                    sum += term / f64::from(2 * n + 1);
                }
                x * 0.5 * (1.0 + sum * std::f64::consts::FRAC_2_SQRT_PI)
            }
            Activation::GeluTanh => {
                let inside = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                x * 0.5 * (1.0 + inside.tanh())
            }
        }
    }

    fn spread(seed: u64, count: usize) -> Vec<f32> {
        numbers(seed, count).iter().map(|x| 4.0 * x).collect()
    }

    #[test]
    fn plain_activations_equal_the_reference_and_its_differences() {
        for activation in ALL {
            for len in [0, 1, 15, 100, 8200] {
                let (x, dout) = (spread(1, len), numbers(2, len));
                let results = on_any_threads(|| {
                    vec![activated_new(activation, &x), activated_backward_new(activation, &x, &dout)]
                });
                let expected: Vec<f64> = x.iter().map(|&x| reference(activation, f64::from(x))).collect();
                assert_close(&results[0], &expected, 1e-6, &format!("{activation:?}"));
                let loss =
                    |x: &[f64]| x.iter().zip(&dout).map(|(&x, &d)| reference(activation, x) * f64::from(d)).sum();
                if len <= 100 {
                    assert_gradient(loss, &x, &results[1], &format!("{activation:?}"));
                }
            }
        }
    }

    #[test]
    fn gated_activations_equal_the_reference_and_its_differences() {
        for activation in ALL {
            for (rows, width) in [(0, 3), (1, 1), (9, 5), (17, 64), (3, 0), (2, 1_001)] {
                let (joined, dout) = (spread(1, rows * 2 * width), numbers(2, rows * width));
                let results = on_any_threads(|| {
                    let out = gated_joined_new(activation, &joined, width);
                    vec![out, gated_joined_backward_new(activation, &joined, &dout, width)]
                });
                let product = |joined: &[f64]| -> Vec<f64> {
                    let of_row = |joined: &[f64]| {
                        let (gate, up) = joined.split_at(width);
                        gate.iter().zip(up).map(|(&gate, up)| reference(activation, gate) * up).collect::<Vec<_>>()
                    };
                    joined.chunks(2 * width.max(1)).flat_map(of_row).collect()
                };
                let what = format!("{activation:?}, {rows} × {width}");
                assert_close(&results[0], &product(&in_f64(&joined)), 1e-6, &what);
                // Each element moves one of the output, so that differences of that one are enough.
                let step = 1e-5;
                let difference = |i: usize| {
                    let (row, column) = (i / (2 * width), i % (2 * width));
                    let at = column % width;
                    let [gate, up] = [0, width].map(|side| f64::from(joined[row * 2 * width + side + at]));
                    let moved = |by: f64| match column < width {
                        true => reference(activation, gate + by) * up,
                        false => reference(activation, gate) * (up + by),
                    };
                    f64::from(dout[row * width + at]) * (moved(step) - moved(-step)) / (2.0 * step)
                };
                let expected: Vec<f64> = (0..joined.len()).map(difference).collect();
                assert_close(&results[1], &expected, 2e-5, &what);
            }
        }
    }

    #[test]
    fn far_from_zero_they_are_the_identity_or_nothing() {
        for activation in ALL {
            let x = [-1e4, -100.0, 100.0, 1e4];
            let (out, slope) = (activated_new(activation, &x), activated_backward_new(activation, &x, &[1.0; 4]));
            for (out, expected) in out.iter().zip([0.0, 0.0, 100.0, 1e4]) {
                assert!((out - expected).abs() <= 1e-6 * expected.max(1.0), "{activation:?}: {out}");
            }
            assert_close(&slope, &[0.0, 0.0, 1.0, 1.0], 1e-6, &format!("{activation:?}"));
        }
    }
}
