//! What a tensor of the processor holds, and the typed views that kernels need of it.

use grades_kernels::cross_entropy::HeadElement;
use grades_kernels::elementwise;
use grades_kernels::gemm::{Matrix, MatrixMut};
use grades_kernels::quant::PackedMatrix;
use half::bf16;

use super::processor::CPU;
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// The elements of a tensor, row-major.
pub(super) enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    U8(Vec<u8>),
    Packed(PackedMatrix),
}

/// An element type of activations.
pub(super) trait Number: HeadElement + bytemuck::Pod {
    const DTYPE: Dtype;

    fn slice(values: &Values) -> Option<&[Self]>;

    fn vector(values: &mut Values) -> Option<&mut Vec<Self>>;

    fn values(vector: Vec<Self>) -> Values;
}

impl Number for f32 {
    const DTYPE: Dtype = Dtype::F32;

    fn slice(values: &Values) -> Option<&[Self]> {
        if let Values::F32(values) = values { Some(values) } else { None }
    }

    fn vector(values: &mut Values) -> Option<&mut Vec<Self>> {
        if let Values::F32(values) = values { Some(values) } else { None }
    }

    fn values(vector: Vec<Self>) -> Values {
        Values::F32(vector)
    }
}

impl Number for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;

    fn slice(values: &Values) -> Option<&[Self]> {
        if let Values::Bf16(values) = values { Some(values) } else { None }
    }

    fn vector(values: &mut Values) -> Option<&mut Vec<Self>> {
        if let Values::Bf16(values) = values { Some(values) } else { None }
    }

    fn values(vector: Vec<Self>) -> Values {
        Values::Bf16(vector)
    }
}

/// `$body` with `$number` standing for the element type of `$tensor`.
macro_rules! with_numbers {
    ($tensor:expr, $number:ident => $body:expr) => {
        if $tensor.dtype() == $crate::dtype::Dtype::Bf16 {
            type $number = half::bf16;
            $body
        } else {
            type $number = f32;
            $body
        }
    };
}
pub(super) use with_numbers;

/// The elements of a tensor.
///
/// # Panics
/// If they are of another type, a mistake of the calling code.
pub(super) fn slice<E: Number>(tensor: &Tensor) -> &[E] {
    match E::slice(tensor.storage()) {
        Some(values) => values,
        None => wrong_dtype(tensor, E::DTYPE),
    }
}

/// The elements of a tensor, to be changed; `grown` as in [`Tensor::storage_mut`].
///
/// # Panics
/// As [`slice`].
pub(super) fn vector<E: Number>(tensor: &mut Tensor, grown: Option<usize>) -> &mut Vec<E> {
    if tensor.dtype() != E::DTYPE {
        wrong_dtype(tensor, E::DTYPE);
    }
    match E::vector(tensor.storage_mut(grown)) {
        Some(values) => values,
        None => unreachable_dtype(E::DTYPE),
    }
}

#[expect(clippy::panic, reason = "an operand of another dtype is a mistake of the calling code")]
fn wrong_dtype(tensor: &Tensor, wanted: Dtype) -> ! {
    panic!("an operation needs {} elements, but was given {tensor:?}", wanted.name())
}

#[expect(clippy::panic, reason = "a tensor says what its storage holds")]
fn unreachable_dtype(wanted: Dtype) -> ! {
    panic!("a tensor of {} elements holds others", wanted.name())
}

/// The codes of a tensor, to be changed.
///
/// # Panics
/// As [`slice`].
pub(super) fn codes(tensor: &mut Tensor) -> &mut Vec<u8> {
    if tensor.dtype() != Dtype::U8 {
        wrong_dtype(tensor, Dtype::U8);
    }
    match tensor.storage_mut(None) {
        Values::U8(codes) => codes,
        _ => unreachable_dtype(Dtype::U8),
    }
}

/// A new tensor.
pub(super) fn tensor<E: Number>(values: Vec<E>, shape: [usize; 2]) -> Tensor {
    debug_assert_eq!(values.len(), shape[0] * shape[1]);
    Tensor::new(&CPU, shape, E::DTYPE, E::values(values))
}

pub(super) fn matrix<E: Number>(tensor: &Tensor) -> Matrix<'_, E> {
    Matrix::new(slice(tensor), tensor.rows(), tensor.columns())
}

/// Columns `first..` of a tensor as a matrix of `count` columns.
pub(super) fn columns<E: Number>(tensor: &Tensor, first: usize, count: usize) -> Matrix<'_, E> {
    let values = slice(tensor);
    Matrix::with_stride(&values[first.min(values.len())..], tensor.rows(), count, tensor.columns())
}

/// Columns `first..` of `[rows, total]` values to write into.
pub(super) fn columns_mut<E: Number>(
    values: &mut [E],
    [rows, total]: [usize; 2],
    first: usize,
    count: usize,
) -> MatrixMut<'_, E> {
    MatrixMut::with_stride(&mut values[if rows == 0 { 0 } else { first }..], rows, count, total)
}

/// Zeros to write into.
pub(super) fn zeros<E: bytemuck::Pod + Send + Sync>(count: usize) -> Vec<E> {
    // Where there is not as much memory, the allocation below ends the program and says so.
    elementwise::repeat(E::zeroed(), count).unwrap_or_else(|_| bytemuck::zeroed_vec(count))
}
