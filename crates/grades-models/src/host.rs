//! A tensor's values as a slice of the host: without a copy on the CPU backend, through a copy on others.

use burn::backend::autodiff::Autodiff;
use burn::backend::flex::FlexTensor;
use burn::backend::Flex;
use burn::tensor::{Tensor, TensorData};

use crate::Error;

/// The CPU primitive behind a tensor, with or without autodiff, where it is dense, contiguous f32.
fn flex<const D: usize>(tensor: Tensor<D>) -> Option<FlexTensor> {
    let primitive = match tensor.clone().try_into_primitive::<Autodiff<Flex>>() {
        Ok(tracked) => {
            drop(tensor);
            tracked.into_primitive()
        }
        Err(_) => tensor.try_into_primitive::<Flex>().ok()?,
    };
    let whole = primitive.layout().num_elements() * size_of::<f32>() == primitive.bytes().len();
    (primitive.is_contiguous() && whole && primitive.dtype() == burn::tensor::DType::F32).then_some(primitive)
}

/// Calls `f` with the values of `tensor`, row-major.
///
/// # Errors
/// When the device fails to hand the values over.
pub fn read<const D: usize, T>(name: &str, tensor: &Tensor<D>, f: impl FnOnce(&[f32]) -> T) -> Result<T, Error> {
    if let Some(primitive) = flex(tensor.clone()) {
        return Ok(f(primitive.storage::<f32>()));
    }
    let device = |reason: String| Error::Device { name: name.into(), reason };
    let data = tensor.clone().try_into_data().map_err(|e| device(format!("{e:?}")))?;
    let values: Vec<f32> = data.iter::<f32>().collect();
    Ok(f(&values))
}

/// Calls `f` with the values of `tensor` and keeps what it makes of them.
///
/// The tensor stays tracked if it was. On the CPU backend nothing is copied unless another tensor shares the storage.
///
/// # Errors
/// When the device fails to hand the values over.
pub fn update<T>(name: &str, tensor: &mut Tensor<2>, f: impl FnOnce(&mut [f32]) -> T) -> Result<T, Error> {
    let tracked = tensor.is_require_grad();
    let autodiff = tensor.is_autodiff();
    let (device, shape) = (tensor.device(), tensor.dims());
    // The placeholder releases the last other handle, so that the storage is uniquely owned and changed in place.
    let taken = std::mem::replace(tensor, Tensor::empty([1, 1], &device));
    let (value, result) = match flex(taken.clone()) {
        Some(mut primitive) => {
            drop(taken);
            let result = f(primitive.storage_mut::<f32>());
            let value = Tensor::<2>::from_primitive::<Flex>(primitive);
            (if autodiff { value.autodiff() } else { value }, result)
        }
        None => {
            let fail = |reason: String| Error::Device { name: name.into(), reason };
            let data = taken.try_into_data().map_err(|e| fail(format!("{e:?}")))?;
            let mut values: Vec<f32> = data.iter::<f32>().collect();
            let result = f(&mut values);
            (Tensor::from_data(TensorData::new(values, shape), &device), result)
        }
    };
    *tensor = if tracked { value.require_grad() } else { value };
    Ok(result)
}
