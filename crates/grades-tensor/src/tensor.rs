//! A matrix in the memory of a device.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::device::DeviceRef;
use crate::dtype::Dtype;
use crate::held::Counted;

/// A row-major matrix `[rows, columns]` in the memory of a device; a vector has one row.
///
/// A clone shares the storage. What changes a tensor in place copies it first if another tensor shares it.
#[derive(Clone)]
pub struct Tensor {
    shape: [usize; 2],
    dtype: Dtype,
    device: DeviceRef,
    storage: Arc<dyn Any + Send + Sync>,
}

impl Tensor {
    /// A tensor over what a device keeps of it: for devices.
    pub fn new(device: DeviceRef, shape: [usize; 2], dtype: Dtype, storage: impl Any + Send + Sync) -> Self {
        let bytes = shape[0] * shape[1] * dtype.bytes();
        Self { shape, dtype, device, storage: Arc::new(Counted::new(storage, bytes)) }
    }

    /// `[rows, columns]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape[1]
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether it has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What its elements are.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Where it is.
    #[must_use]
    pub fn device(&self) -> DeviceRef {
        self.device
    }

    /// Its elements as f32, row-major: without a copy where the device is the host and they are f32.
    #[must_use]
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        self.device.to_host(self)
    }

    /// The same numbers in another dtype, rounded where it has fewer bits; the same tensor where it has that dtype.
    #[must_use]
    pub fn cast(&self, dtype: Dtype) -> Self {
        if self.dtype == dtype { self.clone() } else { self.device.cast(self, dtype) }
    }

    /// The same elements, row-major, as a matrix of another shape; the storage is shared.
    ///
    /// # Panics
    /// If the number of elements differs.
    #[must_use]
    pub fn reshaped(&self, shape: [usize; 2]) -> Self {
        assert_eq!(self.len(), shape[0] * shape[1], "the elements do not fill the shape {shape:?}");
        Self { shape, ..self.clone() }
    }

    /// Its bytes in the device's memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.device.bytes(self)
    }

    /// How many tensors share its storage, itself included.
    #[cfg(test)]
    pub(crate) fn shares(&self) -> usize {
        Arc::strong_count(&self.storage)
    }

    /// The device's own storage.
    ///
    /// # Panics
    /// If the tensor is of another device, which is a mistake of the calling code as an index out of bounds is.
    #[expect(clippy::panic, reason = "operands of different devices are a mistake of the calling code")]
    pub fn storage<S: Any>(&self) -> &S {
        match self.storage.downcast_ref::<Counted<S>>() {
            Some(counted) => &counted.storage,
            None => panic!("a tensor of the device {} was given to another device", self.device.name()),
        }
    }

    /// The device's own storage, to be changed; it is copied first if another tensor shares it. `grown` is the number of
    /// rows that the caller will leave in it.
    ///
    /// # Panics
    /// As [`storage`](Self::storage).
    #[expect(clippy::panic, reason = "as above; the storage is not shared any more once it is copied")]
    pub fn storage_mut<S: Any>(&mut self, grown: Option<usize>) -> &mut S {
        if Arc::get_mut(&mut self.storage).is_none() {
            *self = self.device.copy(self);
        }
        let [rows, _] = &mut self.shape;
        *rows = grown.unwrap_or(*rows);
        match Arc::get_mut(&mut self.storage).and_then(|storage| storage.downcast_mut::<Counted<S>>()) {
            Some(counted) => &mut counted.storage,
            None => panic!("a tensor of the device {} was given to another device", self.device.name()),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([rows, columns], dtype, device) = (self.shape, self.dtype.name(), self.device.name());
        write!(f, "[{rows}, {columns}] {dtype} on {device}")
    }
}
