//! The parameters of a model: one flat table, each entry with its checkpoint name and its place in the model.
//!
//! A model's layers hold [`ParameterId`]s into the table, so that training, saving and inspecting see every parameter
//! in one loop and no family has to list its own again.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use grades::{Companion, UnitId};
use grades_kernels::quant::{Nf4, PackedMatrix};

use crate::ops::PackedWeights;
use crate::{Error, host};

/// Where a parameter belongs, which decides when it is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A projection matrix or its bias: a unit of freezing.
    Unit(UnitId),
    /// What may freeze with the units around it: a layer's norms, the input embedding.
    Companion(Companion),
    /// The input embedding that is the head too: it freezes with the units as input only, and trains on as head.
    Tied(Companion),
    /// What trains until the end: the last norm, an untied head.
    Always,
    /// What lies under adapters: it never trains.
    Base,
}

/// How a model holds its projection matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In f32.
    #[default]
    Dense,
    /// In the blocks of their checkpoint where it is quantised, else in NF4. They do not train.
    Packed,
}

impl Storage {
    /// As the option `load_in_4bit` means it.
    #[must_use]
    pub fn in_4bit(load_in_4bit: bool) -> Self {
        if load_in_4bit { Self::Packed } else { Self::Dense }
    }
}

/// One parameter tensor.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// Its shape in a Hugging Face checkpoint.
    pub shape: Vec<usize>,
    /// Its place in the model.
    pub place: Place,
    /// Its values as `[rows, columns]`; a vector has one row. Nothing of a packed matrix.
    pub value: Tensor<2>,
    /// The blocks of a packed matrix.
    pub packed: Option<Arc<PackedMatrix>>,
}

impl Parameter {
    /// One whose values are to come.
    fn empty(name: &str, shape: &[usize], place: Place, device: &Device) -> Self {
        Self { name: name.into(), shape: shape.into(), place, value: Tensor::empty([1, 1], device), packed: None }
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is the B of a low-rank adapter.
    #[must_use]
    pub fn is_lora_b(&self) -> bool {
        self.name.ends_with(".lora_B.weight")
    }

    /// Its memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packed.as_ref().map_or(self.len() * size_of::<f32>(), |packed| packed.bytes())
    }

    /// Calls `f` with its values, row-major; a packed matrix is decoded for it.
    ///
    /// # Errors
    /// When the device fails to hand the values over.
    pub fn read<T>(&self, f: impl FnOnce(&[f32]) -> T) -> Result<T, Error> {
        match &self.packed {
            Some(packed) => {
                let mut values = vec![0.0; self.len()];
                packed.decode(&mut values);
                Ok(f(&values))
            }
            None => host::read(&self.name, &self.value, f),
        }
    }

    /// Its first dimension: the rows of a matrix.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Decodes a packed matrix for good.
    pub(crate) fn unpack(&mut self) {
        if let Some(packed) = self.packed.take() {
            let mut values = vec![0.0; self.len()];
            packed.decode(&mut values);
            let values = TensorData::new(values, [packed.rows(), packed.columns()]);
            self.value = Tensor::from_data(values, &self.value.device());
        }
    }

    /// Whether a backward pass computes its gradient.
    #[must_use]
    pub fn is_trainable(&self) -> bool {
        self.value.is_require_grad()
    }

    /// Tracks or untracks it: an untracked parameter costs nothing in the backward pass. A packed matrix is never tracked.
    pub fn set_trainable(&mut self, trainable: bool) {
        let trainable = trainable && self.packed.is_none();
        if trainable != self.is_trainable() {
            let device = self.value.device();
            let value = std::mem::replace(&mut self.value, Tensor::empty([1, 1], &device));
            self.value = if trainable { value.autodiff().require_grad() } else { value.inner() };
        }
    }
}

/// Index of a parameter in its model's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(usize);

impl ParameterId {
    /// The position in the table, in the order of [`Parameters::iter`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// All parameters of a model.
#[derive(Debug, Default)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// The table's entries, in the order of the model.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.0.iter()
    }

    /// The table's entries, in the order of the model.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Parameter> {
        self.0.iter_mut()
    }

    /// Tracks every parameter, but for what lies under adapters.
    pub fn train(&mut self) {
        for parameter in &mut self.0 {
            parameter.set_trainable(parameter.place != Place::Base);
        }
    }

    /// Number of parameter tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value for a forward pass; outside autodiff where `track` is off.
    pub(crate) fn value(&self, id: ParameterId, track: bool) -> Tensor<2> {
        let value = self.0[id.0].value.clone();
        if track || !value.is_autodiff() { value } else { value.inner() }
    }

    /// The blocks of a projection's weights, if they are packed.
    pub(crate) fn packed(&self, ids: &[ParameterId]) -> Option<PackedWeights> {
        ids.iter().map(|&id| self.0[id.0].packed.clone()).collect::<Option<_>>().map(PackedWeights)
    }

    pub(crate) fn get(&self, id: ParameterId) -> &Parameter {
        &self.0[id.0]
    }

    pub(crate) fn get_mut(&mut self, id: ParameterId) -> &mut Parameter {
        &mut self.0[id.0]
    }

    /// Adds one at the end.
    pub(crate) fn push(&mut self, parameter: Parameter) -> ParameterId {
        self.0.push(parameter);
        ParameterId(self.0.len() - 1)
    }

    /// Lets go of all but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

impl std::ops::Index<usize> for Parameters {
    type Output = Parameter;

    fn index(&self, index: usize) -> &Parameter {
        &self.0[index]
    }
}

impl std::ops::IndexMut<usize> for Parameters {
    fn index_mut(&mut self, index: usize) -> &mut Parameter {
        &mut self.0[index]
    }
}

/// Where the values of a new model come from.
pub trait Source {
    /// The shape of a tensor, if there is one of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The values of tensor `name`, row-major, as f32; `shape` is what the model expects.
    ///
    /// # Errors
    /// When the tensor is missing or cannot be read.
    fn load(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error>;

    /// The matrix `name` in the blocks that it is stored in, or in NF4 where it is stored dense.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if a value is not finite.
    fn load_packed(&self, name: &str, [rows, columns]: [usize; 2]) -> Result<PackedMatrix, Error> {
        let refused = |problem: String| Error::Input(format!("tensor {name}: {problem}"));
        let values = Nf4::encode(&self.load(name, &[rows, columns])?).map_err(|e| refused(e.to_string()))?;
        PackedMatrix::nf4(values, rows, columns).map_err(|e| refused(e.to_string()))
    }
}

/// Fills a table from a [`Source`] while a model is put together.
pub(crate) struct Builder<'a> {
    source: &'a dyn Source,
    device: &'a Device,
    storage: Storage,
    parameters: Parameters,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(source: &'a dyn Source, device: &'a Device, storage: Storage) -> Self {
        Self { storage, ..Self::onto(Parameters::default(), source, device) }
    }

    /// Adds to a table.
    pub(crate) fn onto(parameters: Parameters, source: &'a dyn Source, device: &'a Device) -> Self {
        Self { source, device, storage: Storage::Dense, parameters }
    }

    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Loads one parameter of the given checkpoint shape (1 or 2 dimensions).
    pub(crate) fn add(&mut self, name: &str, shape: &[usize], place: Place) -> Result<ParameterId, Error> {
        self.add_or(name, shape, place, Vec::new())
    }

    /// The same; where the source gives no values, it begins with those of `start`.
    pub(crate) fn add_or(
        &mut self,
        name: &str,
        shape: &[usize],
        place: Place,
        start: Vec<f32>,
    ) -> Result<ParameterId, Error> {
        if let Some(found) = self.source.shape(name)
            && found != shape
        {
            return Err(Error::Shape { name: name.into(), found, expected: shape.into() });
        }
        let (mut parameter, device) = (Parameter::empty(name, shape, place, self.device), self.device);
        if let (&[rows, columns], Place::Unit(_), Storage::Packed) = (shape, place, self.storage) {
            parameter.packed = Some(Arc::new(self.source.load_packed(name, [rows, columns])?));
            return Ok(self.parameters.push(parameter));
        }
        let values = Some(self.source.load(name, shape)?).filter(|values| !values.is_empty()).unwrap_or(start);
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>() / columns.max(1);
        parameter.value = Tensor::from_data(TensorData::new(values, [rows, columns]), device);
        Ok(self.parameters.push(parameter))
    }

    pub(crate) fn finish(self) -> Parameters {
        self.parameters
    }
}
