//! Every operation of the processor equals that of the reference, on shapes that are no multiple of any vector or block.
//!
//! On bf16 operands the reference computes in f32 from the same numbers, so the two differ by the rounding of a
//! product's weights and of the result.

mod adapters;
mod attention;
mod experts;
mod layers;
mod losses;
mod memory;
mod projections;
mod training;

use super::{random, relative_error};
use crate::cpu::CPU;
use crate::device::DeviceRef;
use crate::dtype::Dtype;
use crate::reference::REFERENCE;
use crate::tensor::Tensor;

const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 | Dtype::U8 | Dtype::Packed => 1e-5,
        // Weights are rounded to bf16 (2⁻⁹ of each at most), sums are f32, results rounded once more. Where more is
        // rounded on the way, or results nearly cancel, the weights are bf16 numbers from the start.
        Dtype::Bf16 => 4e-3,
    }
}

/// Compares what `operation` gives on the processor with what it gives on the reference, from operands of `dtype`.
#[track_caller]
fn compare(dtype: Dtype, what: &str, operation: impl Fn(DeviceRef) -> Vec<Tensor>) {
    compare_within(tolerance(dtype), &format!("{what} in {}", dtype.name()), operation);
}

/// As [`compare`] for operations that only move elements or round them once, on any device alike.
#[track_caller]
fn compare_exactly(what: &str, operation: impl Fn(DeviceRef) -> Vec<Tensor>) {
    compare_within(0.0, what, operation);
}

#[track_caller]
fn compare_within(tolerance: f64, what: &str, operation: impl Fn(DeviceRef) -> Vec<Tensor>) {
    let (found, expected) = (operation(&CPU), operation(&REFERENCE));
    assert_eq!(found.len(), expected.len(), "{what}: results");
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.dtype(), expected.dtype(), "{what}: dtype of result {index}");
        assert_eq!(found.shape(), expected.shape(), "{what}: shape of result {index}");
        let (found, expected) = (found.to_host(), expected.to_host());
        assert!(expected.iter().all(|value| value.is_finite()), "{what}: result {index} of the reference");
        let error = relative_error(&found, &expected);
        assert!(error <= tolerance, "{what}: result {index} differs by {error:.2e}");
    }
}

/// Random numbers of a dtype.
fn operand(device: DeviceRef, seed: u64, shape: [usize; 2], dtype: Dtype) -> Tensor {
    random(device, seed, shape).cast(dtype)
}

/// Random f32 numbers that a dtype has too.
fn rounded(device: DeviceRef, seed: u64, shape: [usize; 2], dtype: Dtype) -> Tensor {
    operand(device, seed, shape, dtype).cast(Dtype::F32)
}

/// The same numbers on another device.
fn moved(tensor: &Tensor, device: DeviceRef) -> Tensor {
    device.from_host(tensor.to_host().into_owned(), tensor.shape()).cast(tensor.dtype())
}

/// What is there of optional tensors.
fn those(tensors: impl IntoIterator<Item = Option<Tensor>>) -> Vec<Tensor> {
    tensors.into_iter().flatten().collect()
}
