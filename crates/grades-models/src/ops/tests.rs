//! The operations against their default bodies, against finite differences, and their count of executed products.

mod backward;
mod bf16;
mod gradients;
mod overrides;
mod packed;
mod passes;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata, read_sync};
use burn::tensor::TensorData;

use super::{AttentionSpec, CrossEntropySpec, Label, Layout, Ops, RopeTable, labels_of, stock};

/// The counters of [`super::executed_flops`] are of the process: only one test at a time may read them or add to them.
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

/// The gradient of one weight by the override.
fn weight_gradient(dy: FlexTensor, x: FlexTensor, columns: Range<usize>) -> FlexTensor {
    <Flex as Ops>::project_weight_gradients(dy, x, vec![columns]).0.remove(0)
}

fn random(seed: u64, rows: usize, columns: usize) -> FlexTensor {
    tensor(values(seed, rows * columns), rows, columns)
}

fn tensor(values: Vec<f32>, rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, [rows, columns]))
}

fn read(tensor: FlexTensor) -> (Vec<usize>, Vec<f32>) {
    let data = read_sync(Flex::float_into_data(tensor)).unwrap();
    (data.shape().to_vec(), data.iter::<f32>().collect())
}

/// ‖found − expected‖ / ‖expected‖.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x).powi(2);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    let size: f64 = expected.iter().copied().map(square).sum();
    (difference / size.max(1e-20)).sqrt()
}

/// Samples of these lengths side by side.
fn packed(lengths: &[usize]) -> Layout {
    let mut end = 0;
    let segments: Vec<Range<usize>> = lengths
        .iter()
        .map(|length| {
            end += length;
            end - length..end
        })
        .collect();
    Layout::packed(&segments)
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
fn rope(head_dim: usize) -> Arc<RopeTable> {
    let angle = |position: usize, pair: usize| position as f32 * 100_f32.powf(-2.0 * pair as f32 / head_dim as f32);
    let angles = (0..32).flat_map(|position| (0..head_dim / 2).map(move |pair| angle(position, pair)));
    let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
    Arc::new(RopeTable { cos, sin })
}

/// The loss, its gradients as they are wanted, and the likelihoods, against the default bodies.
fn check_cross_entropy(
    hidden: &FlexTensor,
    weight: &FlexTensor,
    spec: &CrossEntropySpec,
    assert_same: impl Fn(&str, FlexTensor, FlexTensor),
) {
    let arguments = || (hidden.clone(), weight.clone());
    for (want_hidden, want_weight) in [(false, false), (true, false), (false, true), (true, true)] {
        let (hidden, weight) = arguments();
        let found = <Flex as Ops>::cross_entropy_forward(hidden, weight, spec.clone(), want_hidden, want_weight);
        let (hidden, weight) = arguments();
        let expected = stock::cross_entropy::<Flex>(hidden, weight, spec, want_hidden, want_weight);
        assert_same("loss", found.0, expected.0);
        for (found, expected, wanted) in [(found.1, expected.1, want_hidden), (found.2, expected.2, want_weight)] {
            assert_eq!((found.is_some(), expected.is_some()), (wanted, wanted));
            if let (Some(found), Some(expected)) = (found, expected) {
                assert_same("gradient of the loss", found, expected);
            }
        }
    }
    // A second label beside each.
    let vocabulary = weight.shape().dims::<2>()[0] as u32;
    let two = |label: Label| [label, Label { token: (label.token + 1) % vocabulary, ..label }];
    let labels = Arc::new(labels_of(&spec.targets).into_iter().flat_map(two).collect::<Vec<_>>());
    let (hidden, weight) = arguments();
    let found = <Flex as Ops>::log_likelihoods(hidden, weight, labels.clone());
    let (hidden, weight) = arguments();
    assert_same("log-likelihoods", found, stock::log_likelihoods::<Flex>(hidden, weight, &labels));
}
