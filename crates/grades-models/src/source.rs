//! Where the values of a model come from, and the table that is filled with them.

use std::ops::Range;

use grades::UnitId;
use grades_kernels::quant::{Nf4, PackedMatrix};
use grades_tensor::{DeviceRef, Dtype, Tensor};
use half::bf16;

use crate::Error;
use crate::nn::Norm;
use crate::parameters::{Group, Groups, Parameter, ParameterId, Parameters, Place};

/// How a source has the values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As numbers that bf16 would round.
    Dense,
    /// In bf16.
    Half,
    /// In blocks, of so many bytes altogether.
    Packed(u64),
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

    /// How it has a tensor.
    fn form(&self, _name: &str) -> Form {
        Form::Dense
    }

    /// The values of a tensor that it has in bf16 ([`Form::Half`]).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn load_half(&self, name: &str, shape: &[usize]) -> Result<Vec<bf16>, Error> {
        Ok(self.load(name, shape)?.into_iter().map(bf16::from_f32).collect())
    }

    /// Some rows of a tensor, whose row is its last dimension.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if there are no such rows.
    fn load_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>, Error> {
        let shape = self.shape(name).unwrap_or_default();
        let columns = shape.last().copied().unwrap_or(1);
        let all = self.load(name, &shape)?;
        let part = all.get(rows.start * columns..rows.end * columns);
        part.map(<[f32]>::to_vec).ok_or_else(|| Error::Input(format!("tensor {name}: it has no rows {rows:?}")))
    }

    /// The scales of a norm `[width]`, which has `offset` added to them.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn load_scale(&self, name: &str, width: usize, _offset: f32) -> Result<Vec<f32>, Error> {
        self.load(name, &[width])
    }

    /// The matrix `name` in the blocks that it is stored in, or in NF4 where it is stored dense.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if a value is not finite.
    fn load_packed(&self, name: &str, shape: [usize; 2]) -> Result<PackedMatrix, Error> {
        packed(name, &self.load(name, &shape)?, shape)
    }

    /// Some rows of a tensor, whose row are its `columns` of the last dimension, as a matrix in the blocks that they are stored
    /// in, or in NF4.
    ///
    /// # Errors
    /// As [`load_packed`](Self::load_packed), and if there are no such rows.
    fn load_packed_rows(&self, name: &str, rows: Range<usize>, columns: usize) -> Result<PackedMatrix, Error> {
        packed(name, &self.load_rows(name, rows.clone())?, [rows.len(), columns])
    }
}

/// How a source has a tensor, if it may be held so where it does not train: vectors are held in f32, and what reads pictures in no
/// blocks.
pub(crate) fn holdable(
    source: &dyn Source,
    name: &str,
    shape: &[usize],
    mut places: impl Iterator<Item = Place>,
) -> Form {
    match if shape.len() > 1 { source.form(name) } else { Form::Dense } {
        Form::Packed(_) if places.any(|place| place.group() != Group::Language) => Form::Dense,
        form => form,
    }
}

/// The values of the matrix `name` in NF4.
pub(crate) fn packed(name: &str, values: &[f32], [rows, columns]: [usize; 2]) -> Result<PackedMatrix, Error> {
    let refused = |problem: String| Error::Input(format!("tensor {name}: {problem}"));
    let values = Nf4::encode(values).map_err(|e| refused(e.to_string()))?;
    PackedMatrix::nf4(values, rows, columns).map_err(|e| refused(e.to_string()))
}

/// How a model holds its projection matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In f32.
    #[default]
    Dense,
    /// In the blocks of their checkpoint where it is quantised, else in NF4. They do not train.
    Packed,
    /// In the blocks of their checkpoint where it is quantised, and as [`LoadOptions::fixed`] has it elsewhere: no value changes.
    Stored,
    /// Nothing of the whole model is held or read but names, shapes and places; it cannot compute.
    Outline,
}

impl Storage {
    /// As the option `load_in_4bit` means it.
    #[must_use]
    pub fn in_4bit(load_in_4bit: bool) -> Self {
        if load_in_4bit { Self::Packed } else { Self::Dense }
    }
}

/// How a model is put together.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Where its tensors are.
    pub device: DeviceRef,
    /// How it holds its projection matrices; norms, biases and what reads pictures are dense.
    pub storage: Storage,
    /// The groups of which nothing will train: their matrices, the embedding and the head among them, stay in bf16 where the source
    /// has them so, and with [`Storage::Packed`] in its blocks, in half the memory or less, and in the same values.
    pub fixed: Groups,
    /// Whether the roles inside a fused projection are units of their own.
    pub split_fused: bool,
}

impl LoadOptions {
    /// Dense and all in f32, with the roles inside fused projections as units.
    #[must_use]
    pub fn new(device: DeviceRef) -> Self {
        Self { device, storage: Storage::Dense, fixed: Groups::default(), split_fused: true }
    }

    /// All as its source has it, where that is in bf16 or in blocks: a model that is read and written, and no more.
    #[must_use]
    pub fn stored(device: DeviceRef) -> Self {
        Self { storage: Storage::Stored, fixed: Groups::ALL, ..Self::new(device) }
    }

    /// With the projection matrices held as the option `load_in_4bit` says.
    #[must_use]
    pub fn in_4bit(self, load_in_4bit: bool) -> Self {
        Self { storage: Storage::in_4bit(load_in_4bit), ..self }
    }

    /// For a model of which these groups do not train.
    #[must_use]
    pub fn fixed(self, fixed: Groups) -> Self {
        Self { fixed, ..self }
    }
}

/// Fills a table from a [`Source`] while a model is put together.
pub(crate) struct Builder<'a> {
    source: &'a dyn Source,
    pub(crate) options: LoadOptions,
    parameters: Parameters,
    sites: u64,
    /// The name in the source, and in the table, of that which is asked for.
    file: fn(&str) -> String,
    /// What comes before it.
    prefix: String,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(source: &'a dyn Source, options: LoadOptions) -> Self {
        Self {
            source,
            options,
            parameters: Parameters::default(),
            sites: 0,
            file: str::to_owned,
            prefix: String::new(),
        }
    }

    /// Adds to a table.
    pub(crate) fn onto(parameters: Parameters, source: &'a dyn Source, device: DeviceRef) -> Self {
        Self {
            source,
            options: LoadOptions::new(device),
            parameters,
            sites: 0,
            file: str::to_owned,
            prefix: String::new(),
        }
    }

    /// From here on what is asked for by a name has that which `file` makes of it.
    pub(crate) fn name_as(&mut self, file: fn(&str) -> String) {
        self.file = file;
    }

    /// Loads a part whose names have `prefix` before them.
    pub(crate) fn below<T>(&mut self, prefix: &str, load: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.prefix, prefix.to_owned());
        let part = load(self);
        self.prefix = before;
        part
    }

    /// The name in the source.
    fn named(&self, name: &str) -> String {
        format!("{}{}", self.prefix, (self.file)(name))
    }

    /// Whether the source has a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.source.shape(&self.named(name)).is_some()
    }

    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The next number of a linear layer in the model.
    pub(crate) fn next_site(&mut self) -> u64 {
        self.sites += 1;
        self.sites - 1
    }

    /// Loads one parameter of the given checkpoint shape. What has more than one dimension is a matrix whose rows are the
    /// first, what has one a row.
    pub(crate) fn add(&mut self, name: &str, shape: &[usize], place: Place) -> Result<ParameterId, Error> {
        self.add_pieces(name, shape, &[(shape.first().copied().unwrap_or(1), place)], Vec::new())
    }

    /// The same with several pieces; where the source gives no values, it begins with those of `start`.
    pub(crate) fn add_pieces(
        &mut self,
        name: &str,
        shape: &[usize],
        pieces: &[(usize, Place)],
        start: Vec<f32>,
    ) -> Result<ParameterId, Error> {
        let name = &self.named(name);
        self.check_shape(name, shape)?;
        let device = self.options.device;
        let rows = if let [rows, _, ..] = *shape { rows } else { 1 };
        let extent = [rows, shape.iter().product::<usize>() / rows.max(1)];
        let may_be_packed = pieces.iter().all(|(_, place)| place.may_be_packed());
        let places = || pieces.iter().map(|(_, place)| *place);
        let fixed = places().all(|place| self.options.fixed.contains(place.group()));
        let form = if fixed { holdable(self.source, name, shape, places()) } else { Form::Dense };
        let value = match (shape, self.options.storage) {
            (_, Storage::Outline) => Tensor::new(device, extent, Dtype::F32, ()),
            (&[rows, columns], storage @ (Storage::Packed | Storage::Stored))
                if matches!(form, Form::Packed(_)) || may_be_packed && storage == Storage::Packed =>
            {
                device.from_packed(self.source.load_packed(name, [rows, columns])?)
            }
            _ if form == Form::Half => device.from_bf16(self.source.load_half(name, shape)?, extent),
            _ => {
                let values = Some(self.source.load(name, shape)?).filter(|values| !values.is_empty()).unwrap_or(start);
                device.from_host(values, extent)
            }
        };
        Ok(self.parameters.push(Parameter::new(name, shape, value, pieces)))
    }

    /// One parameter, one piece, as a matrix whose columns are the last dimension.
    pub(crate) fn table(&mut self, name: &str, shape: &[usize], place: Place) -> Result<ParameterId, Error> {
        let id = self.add(name, shape, place)?;
        let columns = shape.last().copied().unwrap_or(1);
        let value = &mut self.parameters.get_mut(id).value;
        *value = value.reshaped([value.len() / columns.max(1), columns]);
        Ok(id)
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        match self.source.shape(name) {
            Some(found) if found != shape => Err(Error::Shape { name: name.into(), found, expected: shape.into() }),
            _ => Ok(()),
        }
    }

    /// A norm over `width` elements, which adds `offset` to its scales.
    pub(crate) fn norm(
        &mut self,
        name: &str,
        width: usize,
        place: Place,
        (eps, offset): (f32, f32),
    ) -> Result<Norm, Error> {
        let name = &self.named(name);
        self.check_shape(name, &[width])?;
        let device = self.options.device;
        let value = match self.options.storage {
            Storage::Outline => Tensor::new(device, [1, width], Dtype::F32, ()),
            Storage::Dense | Storage::Packed | Storage::Stored => {
                device.from_host(self.source.load_scale(name, width, offset)?, [1, width])
            }
        };
        let scale = self.parameters.push(Parameter::new(name, &[width], value, &[(width, place)]));
        let offset = (offset != 0.0).then(|| self.constant(offset, width));
        Ok(Norm { scale, offset, bias: None, eps })
    }

    /// A row of one number, which is no parameter.
    pub(crate) fn constant(&self, number: f32, width: usize) -> Tensor {
        let device = self.options.device;
        match self.options.storage {
            Storage::Outline => Tensor::new(device, [1, width], Dtype::F32, ()),
            Storage::Dense | Storage::Packed | Storage::Stored => device.from_host(vec![number; width], [1, width]),
        }
    }

    /// A layer norm over `width` elements: `name` without `.weight` and `.bias`.
    pub(crate) fn layer_norm(&mut self, name: &str, width: usize, place: Place, eps: f32) -> Result<Norm, Error> {
        let norm = self.norm(&format!("{name}.weight"), width, place, (eps, 0.0))?;
        Ok(Norm { bias: Some(self.add(&format!("{name}.bias"), &[width], place)?), ..norm })
    }

    /// The matrix `[rows, columns]` of a linear layer with the units in it, and its bias if it has one.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        columns: usize,
        units: &[(UnitId, usize)],
        bias: bool,
    ) -> Result<(ParameterId, Option<ParameterId>), Error> {
        let rows = units.iter().map(|(_, rows)| rows).sum();
        let pieces: Vec<_> = units.iter().map(|&(unit, rows)| (rows, Place::Unit(unit))).collect();
        let weight = self.add_pieces(&format!("{name}.weight"), &[rows, columns], &pieces, Vec::new())?;
        let bias = bias.then(|| self.add_pieces(&format!("{name}.bias"), &[rows], &pieces, Vec::new()));
        Ok((weight, bias.transpose()?))
    }

    pub(crate) fn finish(self) -> Parameters {
        self.parameters
    }
}
