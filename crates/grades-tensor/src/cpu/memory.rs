//! Tensors in the memory of the processor.

use std::borrow::Cow;

use grades_kernels::gemm::bf16::Rows;
use grades_kernels::quant::PackedMatrix;
use grades_kernels::{elementwise, embedding};
use half::bf16;

use super::processor::{CPU, Cpu};
use super::values::{Values, slice, tensor, vector, with_numbers, zeros};
use crate::device::Memory;
use crate::dtype::Dtype;
use crate::tensor::Tensor;

impl Memory for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn from_host(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor {
        assert_eq!(values.len(), shape[0] * shape[1], "the values do not fill the shape {shape:?}");
        tensor(values, shape)
    }

    fn from_bf16(&self, values: Vec<bf16>, shape: [usize; 2]) -> Tensor {
        assert_eq!(values.len(), shape[0] * shape[1], "the values do not fill the shape {shape:?}");
        tensor(values, shape)
    }

    fn from_packed(&self, matrix: PackedMatrix) -> Tensor {
        Tensor::new(&CPU, [matrix.rows(), matrix.columns()], Dtype::Packed, Values::Packed(matrix))
    }

    fn to_host<'a>(&self, tensor: &'a Tensor) -> Cow<'a, [f32]> {
        match tensor.storage() {
            Values::F32(values) => Cow::Borrowed(values),
            Values::Bf16(values) => Cow::Owned(grades_kernels::widen(values)),
            Values::U8(codes) => Cow::Owned(codes.iter().map(|code| f32::from(*code)).collect()),
            Values::Packed(matrix) => {
                let mut values = vec![0.0; tensor.len()];
                matrix.decode(&mut values);
                Cow::Owned(values)
            }
        }
    }

    fn zeros(&self, shape @ [rows, columns]: [usize; 2], dtype: Dtype) -> Tensor {
        match dtype {
            Dtype::Bf16 => tensor::<bf16>(zeros(rows * columns), shape),
            Dtype::U8 => Tensor::new(&CPU, shape, dtype, Values::U8(zeros(rows * columns))),
            Dtype::F32 | Dtype::Packed => tensor::<f32>(zeros(rows * columns), shape),
        }
    }

    fn copy(&self, of: &Tensor) -> Tensor {
        let values = match of.storage() {
            Values::F32(values) => Values::F32(elementwise::copy(values)),
            Values::Bf16(values) => Values::Bf16(elementwise::copy(values)),
            Values::U8(codes) => Values::U8(elementwise::copy(codes)),
            Values::Packed(matrix) => Values::Packed(matrix.clone()),
        };
        Tensor::new(&CPU, of.shape(), of.dtype(), values)
    }

    fn cast(&self, of: &Tensor, dtype: Dtype) -> Tensor {
        match (of.storage(), dtype) {
            (Values::F32(values), Dtype::Bf16) => tensor(grades_kernels::narrow(values), of.shape()),
            (_, Dtype::Bf16) => self.cast(&self.cast(of, Dtype::F32), dtype),
            (_, Dtype::U8) => {
                let codes = self.to_host(of).iter().map(|value| *value as u8).collect();
                Tensor::new(&CPU, of.shape(), dtype, Values::U8(codes))
            }
            (_, Dtype::F32 | Dtype::Packed) => tensor::<f32>(self.to_host(of).into_owned(), of.shape()),
        }
    }

    fn bytes(&self, tensor: &Tensor) -> usize {
        match tensor.storage() {
            Values::F32(values) => size_of_val(values.as_slice()),
            Values::Bf16(values) => size_of_val(values.as_slice()),
            Values::U8(codes) => codes.len(),
            Values::Packed(matrix) => matrix.bytes(),
        }
    }

    fn add(&self, sum: &mut Tensor, term: &Tensor) {
        assert_eq!(sum.shape(), term.shape(), "a sum of different shapes");
        with_numbers!(term, E => elementwise::add_in_place::<E>(vector(sum, None), slice(term)));
    }

    fn scale(&self, tensor: &mut Tensor, factor: f32) {
        elementwise::scale(factor, vector(tensor, None));
    }

    #[expect(clippy::expect_used, reason = "the tokens of a batch are checked before it reaches a model")]
    fn gather_rows(&self, of: &Tensor, rows: &[u32]) -> Tensor {
        let width = of.columns();
        if let Values::Packed(matrix) = of.storage() {
            let mut found = zeros::<f32>(rows.len() * width);
            for (&row, out) in rows.iter().zip(found.chunks_exact_mut(width.max(1))) {
                matrix.row(row as usize, 0..width, out);
            }
            return tensor(found, [rows.len(), width]);
        }
        with_numbers!(of, E => {
            let found = embedding::gather::<E>(slice(of), width, &ids(rows)).expect("rows within the tensor");
            tensor(found, [rows.len(), width])
        })
    }

    #[expect(clippy::expect_used, reason = "as above")]
    fn scatter_add_rows(&self, sum: &mut Tensor, rows: &[u32], terms: &Tensor) {
        let width = sum.columns();
        let sum = vector::<f32>(sum, None);
        embedding::scatter_add(slice(terms), width, &ids(rows), sum).expect("rows within the tensor");
    }

    fn put_rows(&self, tensor: &mut Tensor, rows: &[u32], by: &Tensor) {
        let width = tensor.columns();
        with_numbers!(by, E => {
            let values = vector::<E>(tensor, None);
            for (&row, by) in rows.iter().zip(slice::<E>(by).chunks_exact(width)) {
                values[row as usize * width..][..width].copy_from_slice(by);
            }
        });
    }

    fn append_rows(&self, tensor: &mut Tensor, rows: &Tensor) {
        let grown = Some(tensor.rows() + rows.rows());
        with_numbers!(rows, E => vector::<E>(tensor, grown).extend_from_slice(slice(rows)));
    }
}

fn ids(rows: &[u32]) -> Vec<i64> {
    rows.iter().map(|&row| row.into()).collect()
}
