//! Activation functions, plain and gated (`activation(gate) · up`, Shazeer 2020, arXiv 2002.05202), with gradients.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use crate::Element;
use crate::dispatch::multiversion;
use crate::math::{erf, exp, mul_add, sigmoid, tanh};
use crate::memory::written;
use crate::threads::each;

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

/// `out = activation(x)`, all of one length.
///
/// # Panics
/// If the lengths differ.
pub fn activate(activation: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), x.len());
    each(x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)), |(x, out)| match activation {
        Activation::Silu => plain_silu(x, out),
        Activation::Gelu => plain_gelu(x, out),
        Activation::GeluTanh => plain_gelu_tanh(x, out),
    });
}

/// `dx = dout · activation′(x)`, all of one length.
///
/// # Panics
/// If the lengths differ.
pub fn activate_backward(activation: Activation, x: &[f32], dout: &[f32], dx: &mut [f32]) {
    assert_eq!(dout.len(), x.len());
    assert_eq!(dx.len(), x.len());
    let blocks = x.chunks(BLOCK).zip(dout.chunks(BLOCK)).zip(dx.chunks_mut(BLOCK));
    each(blocks, |((x, dout), dx)| match activation {
        Activation::Silu => plain_silu_backward(x, dout, dx),
        Activation::Gelu => plain_gelu_backward(x, dout, dx),
        Activation::GeluTanh => plain_gelu_tanh_backward(x, dout, dx),
    });
}

/// `out = activation(gate) · up`, all of one length.
///
/// # Panics
/// If the lengths differ.
pub fn gated(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(up.len(), gate.len());
    assert_eq!(out.len(), gate.len());
    let blocks = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(out.chunks_mut(BLOCK));
    each(blocks, |((gate, up), out)| match activation {
        Activation::Silu => gated_silu(gate, up, out),
        Activation::Gelu => gated_gelu(gate, up, out),
        Activation::GeluTanh => gated_gelu_tanh(gate, up, out),
    });
}

/// `dgate = dout · up · activation′(gate)` and `dup = dout · activation(gate)`, all of one length.
///
/// # Panics
/// If the lengths differ.
pub fn gated_backward(
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    dout: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    assert_eq!(up.len(), gate.len());
    assert_eq!(dout.len(), gate.len());
    assert_eq!(dgate.len(), gate.len());
    assert_eq!(dup.len(), gate.len());
    let inputs = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(dout.chunks(BLOCK));
    let gradients = dgate.chunks_mut(BLOCK).zip(dup.chunks_mut(BLOCK));
    each(inputs.zip(gradients), |(((gate, up), dout), (dgate, dup))| match activation {
        Activation::Silu => gated_silu_backward(gate, up, dout, dgate, dup),
        Activation::Gelu => gated_gelu_backward(gate, up, dout, dgate, dup),
        Activation::GeluTanh => gated_gelu_tanh_backward(gate, up, dout, dgate, dup),
    });
}

/// Rows of a block of joined rows.
const BLOCK_ROWS: usize = 8;

/// As [`gated`] for gates and ups that one product left side by side: `gate_up [rows, 2 · width]`, `out [rows, width]`.
///
/// # Panics
/// If a length does not fit.
pub fn gated_joined<E: Element>(activation: Activation, gate_up: &[E], width: usize, out: &mut [E]) {
    assert_eq!(gate_up.len(), 2 * out.len());
    if out.is_empty() {
        return;
    }
    assert_eq!(out.len() % width, 0);
    let blocks = gate_up.chunks(BLOCK_ROWS * 2 * width).zip(out.chunks_mut(BLOCK_ROWS * width));
    each(blocks, |(gate_up, out)| {
        for (joined, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = joined.split_at(width);
            gate_row(activation, gate, up, out);
        }
    });
}

/// `out = activation(gate) · up` of one row, on this thread.
pub(crate) fn gate_row<E: Element>(activation: Activation, gate: &[E], up: &[E], out: &mut [E]) {
    match activation {
        Activation::Silu => gated_silu(gate, up, out),
        Activation::Gelu => gated_gelu(gate, up, out),
        Activation::GeluTanh => gated_gelu_tanh(gate, up, out),
    }
}

/// The gradient of [`gated_joined`], `[rows, 2 · width]`, from `dout [rows, width]`.
///
/// # Panics
/// If a length does not fit.
pub fn gated_joined_backward<E: Element>(
    activation: Activation,
    gate_up: &[E],
    dout: &[E],
    width: usize,
    gradient: &mut [E],
) {
    assert_eq!(gate_up.len(), 2 * dout.len());
    assert_eq!(gradient.len(), gate_up.len());
    if dout.is_empty() {
        return;
    }
    assert_eq!(dout.len() % width, 0);
    let block = BLOCK_ROWS * 2 * width;
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
}

/// [`gated_joined`] into new memory.
///
/// # Panics
/// If the length is no whole number of rows.
#[must_use]
pub fn gated_joined_new<E: Element>(activation: Activation, gate_up: &[E], width: usize) -> Vec<E> {
    // SAFETY: the kernel writes each element of each row, from its inputs alone, or panics.
    unsafe { written(gate_up.len() / 2, |out| gated_joined(activation, gate_up, width, out)) }
}

/// [`gated_joined_backward`] into new memory.
///
/// # Panics
/// If the lengths do not fit.
#[must_use]
pub fn gated_joined_backward_new<E: Element>(
    activation: Activation,
    gate_up: &[E],
    dout: &[E],
    width: usize,
) -> Vec<E> {
    // SAFETY: as above.
    unsafe { written(gate_up.len(), |gradient| gated_joined_backward(activation, gate_up, dout, width, gradient)) }
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
            fn $plain<FMA>(x: &[f32], out: &mut [f32]) {
                for (x, out) in x.iter().zip(out) {
                    *out = $function::<FMA>(*x).0;
                }
            }

            fn $plain_backward<FMA>(x: &[f32], dout: &[f32], dx: &mut [f32]) {
                for ((x, dout), dx) in x.iter().zip(dout).zip(dx) {
                    *dx = dout * $function::<FMA>(*x).1;
                }
            }

            fn $gated<FMA; E: Element>(gate: &[E], up: &[E], out: &mut [E]) {
                for ((gate, up), out) in gate.iter().zip(up).zip(out) {
                    *out = E::narrow($function::<FMA>(gate.widen()).0 * up.widen());
                }
            }

            fn $gated_backward<FMA; E: Element>(gate: &[E], up: &[E], dout: &[E], dgate: &mut [E], dup: &mut [E]) {
                for (((gate, up), dout), (dgate, dup)) in gate.iter().zip(up).zip(dout).zip(dgate.iter_mut().zip(dup)) {
                    let (value, slope) = $function::<FMA>(gate.widen());
                    let dout = dout.widen();
                    *dgate = E::narrow(dout * up.widen() * slope);
                    *dup = E::narrow(dout * value);
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
    use super::{Activation, activate, activate_backward, gated, gated_backward, gated_joined, gated_joined_backward};
    use crate::testing::{assert_close, assert_gradient, in_f64, inner, numbers, on_any_threads};

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
                    let [mut out, mut dx] = std::array::from_fn(|_| vec![f32::NAN; len]);
                    activate(activation, &x, &mut out);
                    activate_backward(activation, &x, &dout, &mut dx);
                    vec![out, dx]
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
            for len in [0, 1, 50, 8193] {
                let (gate, up, dout) = (spread(1, len), numbers(2, len), numbers(3, len));
                let results = on_any_threads(|| {
                    let [mut out, mut dgate, mut dup] = std::array::from_fn(|_| vec![f32::NAN; len]);
                    gated(activation, &gate, &up, &mut out);
                    gated_backward(activation, &gate, &up, &dout, &mut dgate, &mut dup);
                    vec![out, dgate, dup]
                });
                let product = |gate: &[f64], up: &[f64]| -> Vec<f64> {
                    gate.iter().zip(up).map(|(&gate, up)| reference(activation, gate) * up).collect()
                };
                let (gate64, up64) = (in_f64(&gate), in_f64(&up));
                assert_close(&results[0], &product(&gate64, &up64), 1e-6, &format!("{activation:?}"));
                if len <= 50 {
                    let loss = |gate: &[f64]| inner(&product(gate, &up64), &dout);
                    assert_gradient(loss, &gate, &results[1], &format!("{activation:?} dgate"));
                    let loss = |up: &[f64]| inner(&product(&gate64, up), &dout);
                    assert_gradient(loss, &up, &results[2], &format!("{activation:?} dup"));
                }
            }
        }
    }

    #[test]
    fn joined_rows_equal_separate_ones() {
        for (rows, width) in [(0, 3), (1, 1), (9, 5), (17, 64), (3, 0)] {
            let (joined, dout) = (spread(1, rows * 2 * width), numbers(2, rows * width));
            let side = |from: usize| -> Vec<f32> {
                (0..rows).flat_map(|row| &joined[(2 * row + from) * width..][..width]).copied().collect()
            };
            let (gate, up) = (side(0), side(1));
            for activation in ALL {
                let results = on_any_threads(|| {
                    let (mut out, mut gradient) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * 2 * width]);
                    gated_joined(activation, &joined, width, &mut out);
                    gated_joined_backward(activation, &joined, &dout, width, &mut gradient);
                    vec![out, gradient]
                });
                let [mut out, mut dgate, mut dup] = std::array::from_fn(|_| vec![f32::NAN; rows * width]);
                gated(activation, &gate, &up, &mut out);
                gated_backward(activation, &gate, &up, &dout, &mut dgate, &mut dup);
                assert_close(&results[0], &in_f64(&out), 1e-7, "out");
                for row in 0..rows {
                    let gradient = &results[1][row * 2 * width..][..2 * width];
                    assert_close(&gradient[..width], &in_f64(&dgate[row * width..][..width]), 1e-6, "dgate");
                    assert_close(&gradient[width..], &in_f64(&dup[row * width..][..width]), 1e-6, "dup");
                }
            }
        }
    }

    #[test]
    fn far_from_zero_they_are_the_identity_or_nothing() {
        for activation in ALL {
            let x = [-1e4, -100.0, 100.0, 1e4];
            let (mut out, mut slope) = ([f32::NAN; 4], [f32::NAN; 4]);
            activate(activation, &x, &mut out);
            activate_backward(activation, &x, &[1.0; 4], &mut slope);
            for (out, expected) in out.iter().zip([0.0, 0.0, 100.0, 1e4]) {
                assert!((out - expected).abs() <= 1e-6 * expected.max(1.0), "{activation:?}: {out}");
            }
            assert_close(&slope, &[0.0, 0.0, 1.0, 1.0], 1e-6, &format!("{activation:?}"));
        }
    }
}
