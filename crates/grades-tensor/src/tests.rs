//! The devices against one another, the recorded operations against finite differences, and the tape.

mod backward;
mod devices;
mod gradients;
mod held;
mod model;
mod packed;
mod passes;
mod tape;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::attention::{AttentionSpec, Layout, RopeTable};
use crate::cpu::CPU;
use crate::device::DeviceRef;

use crate::reference::REFERENCE;
use crate::spec::Activation;
use crate::tensor::Tensor;

/// The devices that every operation must work on.
const ALL: [DeviceRef; 2] = [&CPU, &REFERENCE];

const ACTIVATIONS: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

/// The counters of [`Flops`](crate::Flops) are of the process: only one test at a time may read them or add to them.
fn exclusive() -> MutexGuard<'static, ()> {
    static COUNTERS: Mutex<()> = Mutex::new(());
    COUNTERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `count` numbers in [-1, 1), the same for the same seed.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555_5555;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1_u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// [`values`] as an f32 tensor.
fn random(device: DeviceRef, seed: u64, shape: [usize; 2]) -> Tensor {
    device.from_host(values(seed, shape[0] * shape[1]), shape)
}

/// [`random`] tensors with seeds from `first` on.
fn randoms(device: DeviceRef, first: u64, shapes: impl IntoIterator<Item = [usize; 2]>) -> Vec<Tensor> {
    (first..).zip(shapes).map(|(seed, shape)| random(device, seed, shape)).collect()
}

fn references(tensors: &[Tensor]) -> Vec<&Tensor> {
    tensors.iter().collect()
}

/// ‖found − expected‖ / ‖expected‖.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x).powi(2);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    let size: f64 = expected.iter().copied().map(square).sum();
    (difference / size.max(1e-20)).sqrt()
}

/// The ranges of these lengths, one behind the other.
fn side_by_side(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut end = 0;
    let next = |length: &usize| {
        end += length;
        end - length..end
    };
    lengths.iter().map(next).collect()
}

/// Samples of these lengths side by side.
fn packed(lengths: &[usize]) -> Layout {
    Layout::packed(&side_by_side(lengths))
}

fn attention(heads: usize, kv_heads: usize, head_dim: usize, layout: Layout) -> AttentionSpec {
    AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        causal: true,
        window: None,
        rope: None,
        layout: Arc::new(layout),
    }
}

/// Angles of 32 positions.
fn rope(rotary_dim: usize) -> Arc<RopeTable> {
    let angle = |position: usize, pair: usize| position as f32 * 100_f32.powf(-2.0 * pair as f32 / rotary_dim as f32);
    let angles = (0..32).flat_map(|position| (0..rotary_dim / 2).map(move |pair| angle(position, pair)));
    let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
    Arc::new(RopeTable { rotary_dim, cos, sin })
}
