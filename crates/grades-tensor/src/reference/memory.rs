//! Tensors as vectors of f32.

use std::borrow::Cow;

use grades_kernels::quant::PackedMatrix;
use half::bf16;

use crate::device::Memory;
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// The reference.
#[derive(Debug)]
pub struct Reference;

/// A device of plain loops, that tests compare others with.
pub static REFERENCE: Reference = Reference;

/// The elements of a tensor.
pub(super) fn values(tensor: &Tensor) -> &[f32] {
    tensor.storage::<Vec<f32>>()
}

pub(super) fn values_mut(tensor: &mut Tensor) -> &mut Vec<f32> {
    tensor.storage_mut(None)
}

/// Row `row` of a tensor.
pub(super) fn row(tensor: &Tensor, row: usize) -> &[f32] {
    &values(tensor)[row * tensor.columns()..][..tensor.columns()]
}

/// A tensor of these values, rounded where the dtype has fewer bits.
pub(super) fn tensor(mut values: Vec<f32>, shape: [usize; 2], dtype: Dtype) -> Tensor {
    assert_eq!(values.len(), shape[0] * shape[1], "the values do not fill the shape {shape:?}");
    if dtype == Dtype::Bf16 {
        values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
    }
    Tensor::new(&REFERENCE, shape, dtype, values)
}

/// A tensor whose element in row i and column j is `of(i, j)`.
pub(super) fn build([rows, columns]: [usize; 2], dtype: Dtype, of: impl Fn(usize, usize) -> f64) -> Tensor {
    let of = &of;
    let values = (0..rows).flat_map(|i| (0..columns).map(move |j| of(i, j) as f32));
    tensor(values.collect(), [rows, columns], dtype)
}

impl Memory for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn from_host(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor {
        tensor(values, shape, Dtype::F32)
    }

    fn from_bf16(&self, values: Vec<bf16>, shape: [usize; 2]) -> Tensor {
        tensor(values.into_iter().map(bf16::to_f32).collect(), shape, Dtype::Bf16)
    }

    fn from_packed(&self, matrix: PackedMatrix) -> Tensor {
        let shape = [matrix.rows(), matrix.columns()];
        let mut values = vec![0.0; shape[0] * shape[1]];
        matrix.decode(&mut values);
        tensor(values, shape, Dtype::Packed)
    }

    fn to_host<'a>(&self, tensor: &'a Tensor) -> Cow<'a, [f32]> {
        Cow::Borrowed(values(tensor))
    }

    fn zeros(&self, shape: [usize; 2], dtype: Dtype) -> Tensor {
        tensor(vec![0.0; shape[0] * shape[1]], shape, dtype)
    }

    fn copy(&self, of: &Tensor) -> Tensor {
        tensor(values(of).to_vec(), of.shape(), of.dtype())
    }

    fn cast(&self, of: &Tensor, dtype: Dtype) -> Tensor {
        tensor(values(of).to_vec(), of.shape(), dtype)
    }

    fn bytes(&self, tensor: &Tensor) -> usize {
        size_of_val(values(tensor))
    }

    fn add(&self, sum: &mut Tensor, term: &Tensor) {
        assert_eq!(sum.shape(), term.shape(), "a sum of different shapes");
        let both = values(sum).iter().zip(values(term)).map(|(a, b)| a + b).collect();
        *sum = tensor(both, sum.shape(), sum.dtype());
    }

    fn scale(&self, tensor: &mut Tensor, factor: f32) {
        values_mut(tensor).iter_mut().for_each(|value| *value *= factor);
    }

    fn gather_rows(&self, of: &Tensor, rows: &[u32]) -> Tensor {
        let found = rows.iter().flat_map(|&id| row(of, id as usize)).copied().collect();
        let dtype = if of.dtype() == Dtype::Packed { Dtype::F32 } else { of.dtype() };
        tensor(found, [rows.len(), of.columns()], dtype)
    }

    fn scatter_add_rows(&self, sum: &mut Tensor, rows: &[u32], terms: &Tensor) {
        let width = sum.columns();
        let sum = values_mut(sum);
        for (i, &id) in rows.iter().enumerate() {
            for (j, term) in row(terms, i).iter().enumerate() {
                sum[id as usize * width + j] += term;
            }
        }
    }

    fn put_rows(&self, tensor: &mut Tensor, rows: &[u32], by: &Tensor) {
        let width = tensor.columns();
        for (i, &row_of) in rows.iter().enumerate() {
            values_mut(tensor)[row_of as usize * width..][..width].copy_from_slice(row(by, i));
        }
    }

    fn append_rows(&self, to: &mut Tensor, rows: &Tensor) {
        let all = [values(to), values(rows)].concat();
        *to = tensor(all, [to.rows() + rows.rows(), to.columns()], to.dtype());
    }
}
